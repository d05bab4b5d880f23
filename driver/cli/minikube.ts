import type { Command } from 'commander';

import type { Action } from './context.js';
import { printMinikubeArgs } from './minikube-args.js';
import { type MinikubeInstallOptions, installMinikube } from './minikube-install.js';
import { type MinikubeStartOptions, startMinikube } from './minikube-start.js';

/** `tshyve minikube …`: machines for a minikube. */
export function addMinikubeCommands(program: Command, action: Action): void {
  const minikube = program
    .command('minikube')
    .description('machines for minikube')
    .addHelpText(
      'after',
      '\nExamples:\n  tshyve minikube start\n  tshyve minikube args minikube\n  tshyve minikube install',
    );
  minikube
    .command('args <machine>')
    .description('print the flags with which a stock "minikube start" uses a running machine')
    .addHelpText('after', '\nExample:\n  minikube start $(tshyve minikube args dev) --no-kubernetes')
    .action(action((context, machine: string) => printMinikubeArgs(context, machine)));
  minikube
    .command('start [arguments...]')
    .description('make or start a machine and hand it to the "minikube" on the PATH; ends with its exit code')
    .addHelpText(
      'after',
      '\nExamples:\n  tshyve minikube start\n  tshyve minikube start --name dev -- --no-kubernetes\n  tshyve minikube start --dry-run',
    )
    .option('--name <name>', 'name of the machine and of the minikube profile', 'minikube')
    .option('--dry-run', 'print the commands that would be run, and run none')
    .action(action((context, args: string[], options: MinikubeStartOptions) => startMinikube(context, args, options)));
  minikube
    .command('install')
    .description('put the minikube that has the driver tshyve beside yours, as minikube-tshyve')
    .addHelpText(
      'after',
      '\nIt goes to the folder of the minikube on the PATH, or to ~/.local/bin where you may not write there. It prints where it\nis.\n\nExamples:\n  tshyve minikube install\n  tshyve minikube install --from ./minikube-tshyve --to ~/bin',
    )
    .option('--from <file>', 'a minikube built by integrations/minikube/build.sh (default: what this installation has)')
    .option('--to <folder>', 'where to put it')
    .action(action((context, options: MinikubeInstallOptions) => installMinikube(context, options)));
}
