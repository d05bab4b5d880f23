import type { Command } from 'commander';

import { TshyveError } from '../base/index.js';

/** A script that completes sub-commands, their options, and machine names. @throws TshyveError `usage` for another shell */
export function completionScript(shell: string, commands: readonly Command[]): string {
  const names = commands.map((command) => command.name()).join(' ');
  const takesMachine = (command: Command) =>
    command.name() !== 'create' && command.registeredArguments[0]?.name() === 'machine';
  const onMachines = commands.filter(takesMachine).map((command) => command.name());
  const groups = commands.filter((command) => command.commands.length > 0);
  const subNames = (group: Command) => group.commands.map((command) => command.name()).join(' ');
  switch (shell) {
    case 'bash':
    case 'zsh':
      return `${shell === 'zsh' ? 'autoload -U +X bashcompinit && bashcompinit\n' : ''}_tshyve() {
  local word="\${COMP_WORDS[COMP_CWORD]}"
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "${names}" -- "$word"))
    return
  fi
  if [ "$COMP_CWORD" -eq 2 ]; then
    case "\${COMP_WORDS[1]}" in
${groups.map((group) => `      ${group.name()}) COMPREPLY=($(compgen -W "${subNames(group)}" -- "$word")); return ;;`).join('\n')}
    esac
  fi
  case "$word" in
    -*)
      case "\${COMP_WORDS[1]}" in
${commands.map((command) => `        ${command.name()}) COMPREPLY=($(compgen -W "${longOptions(command).join(' ')}" -- "$word")) ;;`).join('\n')}
      esac
      ;;
    *)
      case " ${onMachines.join(' ')} " in
        *" \${COMP_WORDS[1]} "*) COMPREPLY=($(compgen -W "$(tshyve ls -q 2>/dev/null)" -- "$word")) ;;
      esac
      if [ "$COMP_CWORD" -eq 3 ]; then
        case "\${COMP_WORDS[1]} \${COMP_WORDS[2]}" in
${groups
  .flatMap((group) => group.commands.filter(takesMachine).map((command) => `${group.name()} ${command.name()}`))
  .map((words) => `          '${words}') COMPREPLY=($(compgen -W "$(tshyve ls -q 2>/dev/null)" -- "$word")) ;;`)
  .join('\n')}
        esac
      fi
      ;;
  esac
}
complete -F _tshyve tshyve
`;
    case 'fish':
      return `complete -c tshyve -f
complete -c tshyve -n __fish_use_subcommand -a "${names}"
complete -c tshyve -n "__fish_seen_subcommand_from ${onMachines.join(' ')}" -a "(tshyve ls -q 2>/dev/null)"
${groups
  .map(
    (group) =>
      `complete -c tshyve -n "__fish_seen_subcommand_from ${group.name()}; and not __fish_seen_subcommand_from ${subNames(group)}" -a "${subNames(group)}"\n` +
      group.commands
        .filter(takesMachine)
        .map(
          (command) =>
            `complete -c tshyve -n "__fish_seen_subcommand_from ${group.name()}; and __fish_seen_subcommand_from ${command.name()}" -a "(tshyve ls -q 2>/dev/null)"\n`,
        )
        .join(''),
  )
  .join('')}${commands
        .flatMap((command) =>
          longOptions(command).map(
            (option) => `complete -c tshyve -n "__fish_seen_subcommand_from ${command.name()}" -l ${option.slice(2)}\n`,
          ),
        )
        .join('')}`;
    default:
      throw new TshyveError('usage', `No completion for "${shell}": give bash, zsh or fish.`);
  }
}

function longOptions(command: Command): string[] {
  const shown = command.options.filter((option) => !option.hidden && option.long !== undefined);
  return [...shown.map((option) => option.long ?? ''), '--help'];
}
