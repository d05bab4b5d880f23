import { TshyveError } from '../base/index.js';

/** Sub-commands that take no machine name. */
const withoutMachine = new Set(['create', 'ls', 'doctor', 'completion', 'help']);

/** A script that completes sub-commands and machine names. @throws TshyveError `usage` for another shell */
export function completionScript(shell: string, commands: readonly string[]): string {
  const words = commands.join(' ');
  const machineCommands = commands.filter((command) => !withoutMachine.has(command));
  switch (shell) {
    case 'bash':
    case 'zsh':
      return `${shell === 'zsh' ? 'autoload -U +X bashcompinit && bashcompinit\n' : ''}_tshyve() {
  local word="\${COMP_WORDS[COMP_CWORD]}"
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "${words}" -- "$word"))
  else
    case " ${machineCommands.join(' ')} " in
      *" \${COMP_WORDS[1]} "*) COMPREPLY=($(compgen -W "$(tshyve ls -q 2>/dev/null)" -- "$word")) ;;
    esac
  fi
}
complete -F _tshyve tshyve
`;
    case 'fish':
      return `complete -c tshyve -f
complete -c tshyve -n __fish_use_subcommand -a "${words}"
complete -c tshyve -n "__fish_seen_subcommand_from ${machineCommands.join(' ')}" -a "(tshyve ls -q 2>/dev/null)"
`;
    default:
      throw new TshyveError('usage', `No completion for "${shell}": give bash, zsh or fish.`);
  }
}
