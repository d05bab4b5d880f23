import type { Command } from 'commander';

import type { Action } from './context.js';
import { printMinikubeArgs } from './minikube-args.js';
import { type MinikubeStartOptions, startMinikube } from './minikube-start.js';

/** `tshyve minikube …`: machines for a minikube. */
export function addMinikubeCommands(program: Command, action: Action): void {
  const minikube = program
    .command('minikube')
    .description('machines for minikube')
    .addHelpText('after', '\nExamples:\n  tshyve minikube start\n  tshyve minikube args minikube');
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
}
