import { answerFailure, answerReady, messageOf } from '../base/index.js';
import { userNetworkPlace } from './place.js';
import { SwitchProcess } from './switch-process.js';

const usage = `tshyve-switch: the process of one user-mode network that has several machines

It is started by the supervisor of the first machine of a network and ends after the last; it is not meant to be started
by hand.
`;

/** The process behind `tshyve-switch --network NAME`. */
export async function main(argv: readonly string[]): Promise<void> {
  const [option, name] = argv;
  if (option !== '--network' || name === undefined) {
    const asked = option === '--help' || option === '-h';
    (asked ? process.stdout : process.stderr).write(usage);
    process.exitCode = asked ? 0 : 2;
    return;
  }
  process.title = `tshyve-switch ${name}`;
  process.on('SIGHUP', () => undefined);
  try {
    const network = await SwitchProcess.start(userNetworkPlace(name), log);
    answerReady();
    const terminated = new Promise<string>((resolve) => {
      for (const signal of ['SIGTERM', 'SIGINT'] as const) {
        process.on(signal, () => {
          resolve(`Ended by ${signal}.`);
        });
      }
    });
    log(await Promise.race([network.ended, terminated]));
    await network.close();
    process.exit(0);
  } catch (error) {
    log(messageOf(error));
    answerFailure(error);
    process.exit(1);
  }
}

function log(line: string): void {
  process.stderr.write(`${new Date().toISOString()} ${line}\n`);
}
