import { connect } from 'node:net';

import { TshyveError, codeOf, within } from '../../base/index.js';
import { networkIsDown, networkPlace } from './definition.js';
import { MAX_LINE_BYTES, type Principal, type TapPetition, accessSocket, parseAnswer } from './tap-requests.js';

const TIMEOUT_MS = 20_000;

/**
 * Has the keeper of a network, which is root, make or remove an interface of ours.
 * @returns the name of the tap interface
 * @throws TshyveError `precondition` when we may not, the network is down, or the keeper refuses
 */
export async function askKeeper(network: string, petition: TapPetition): Promise<string> {
  const place = networkPlace(network);
  for (const principal of ourselves()) {
    const line = await exchange(accessSocket(place, principal), petition, network);
    if (line === undefined) continue;
    const answer = parseAnswer(line);
    if (answer === undefined) {
      throw new TshyveError(
        'precondition',
        `The keeper of the network "${network}" gave no answer; ${place.log} says why.`,
      );
    }
    if ('error' in answer) throw new TshyveError('precondition', answer.error);
    return answer.tap;
  }
  const uid = String(process.getuid?.() ?? 0);
  throw new TshyveError(
    'precondition',
    `User ${uid} may not attach machines to the network "${network}". Run once: "sudo tshyve network up ${network} --user ${uid}" (it says who may, all at once), or start the machine as root.`,
  );
}

function ourselves(): Principal[] {
  const groups = [process.getgid?.() ?? 0, ...(process.getgroups?.() ?? [])];
  return [
    { kind: 'user', id: process.getuid?.() ?? 0 },
    ...[...new Set(groups)].map((id): Principal => ({ kind: 'group', id })),
  ];
}

/** @returns undefined when this socket is not there, or not for us */
async function exchange(path: string, petition: TapPetition, network: string): Promise<string | undefined> {
  const socket = connect(path);
  const reply = new Promise<string | undefined>((resolve, reject) => {
    let text = '';
    socket.setEncoding('utf8');
    socket.on('data', (chunk: string) => {
      if (text.length < MAX_LINE_BYTES * 4) text += chunk;
    });
    socket.on('close', () => {
      resolve(text.trim());
    });
    socket.on('error', (error) => {
      const code = codeOf(error);
      if (code === 'ENOENT' || code === 'EACCES' || code === 'EPERM') resolve(undefined);
      else if (code === 'ECONNREFUSED') {
        reject(networkIsDown(network));
      } else reject(error);
    });
    socket.end(`${JSON.stringify(petition)}\n`);
  });
  try {
    return await within(reply, TIMEOUT_MS, `the keeper of the network "${network}"`);
  } finally {
    socket.destroy();
  }
}
