import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Readable } from 'node:stream';

import { TshyveError, sleep, within } from '../../driver/base/index.js';
import { discoverAddress, networkPlace, parseDnsmasqLeases, readBaseline } from '../../driver/network/index.js';
import type { Bench, Benchmark } from './benchmark.js';
import { pick } from './harness.js';
import { Namespace } from './namespace.js';

/** What the known drivers do. */
const POLL_MS = 2_000;
const ROUND_TIMEOUT_MS = 15_000;
/** dnsmasq writes expiry times in seconds: renewals of one second look alike. */
const APART_MS = 1_100;
const MAC = '02:00:00:00:00:0a';
const OURS = 'lease file watched (tshyve)';
const POLLER = 'poller, every 2 s (what other drivers do)';

/** Prints a line for each DHCPACK that arrives in its namespace: packet(7), RFC 2132 section 9.6. */
const sniffer = `
$| = 1;
socket(S, 17, 3, 0x0300) or die "packet socket: $!";
print "listening\\n";
while (defined recv(S, $frame, 2000, 0)) {
  print "ack\\n" if substr($frame, 12, 2) eq "\\x08\\x00" && substr($frame, 23, 1) eq "\\x11"
    && substr($frame, 36, 2) eq "\\x00\\x44" && index($frame, "\\x63\\x82\\x53\\x63\\x35\\x01\\x05") > 0;
}`;

export const address: Benchmark = {
  name: 'address',
  about: 'from the DHCPACK on the wire to the address known, beside a 2 s poller',
  rounds: 50,
  needs: ['tshyve'],
  async run(bench) {
    const namespace = new Namespace(bench.world);
    process.env['TSHYVE_NETWORKS'] = namespace.env['TSHYVE_NETWORKS'];
    try {
      await namespace.open();
      await namespace.tshyve('network', 'up', 'bench');
      return await measure(bench, namespace);
    } finally {
      await namespace.close(['bench']);
    }
  },
};

async function measure({ world, rounds, signal, say }: Bench, namespace: Namespace) {
  const guest = await namespace.guest('tsh-bench', MAC);
  const script = join(world.folder, 'udhcpc');
  writeFileSync(
    script,
    '#!/bin/sh\ncase $1 in bound) ip address replace $ip/24 dev eth0; ip route replace default via $router ;; esac\n',
    { mode: 0o755 },
  );
  const wire = namespace.spawn('perl', ['-e', sniffer], guest);
  const lines = new LineWatch(wire.stdout);
  await within(lines.next('listening'), ROUND_TIMEOUT_MS, 'the sniffer', signal);
  const client = namespace.spawn('busybox', ['udhcpc', '-f', '-i', 'eth0', '-s', script, '-A', '1', '-t', '10'], guest);
  await within(lines.next('ack'), ROUND_TIMEOUT_MS, 'a first lease', signal);
  const files = [{ path: networkPlace('bench').leases, parse: parseDnsmasqLeases }];
  const values = new Map<string, number[]>([
    [OURS, []],
    [POLLER, []],
  ]);
  for (let round = 0; round < rounds; round++) {
    if (round % 10 === 0) say(`renewal ${String(round + 1)} of ${String(rounds)}`);
    await sleep(APART_MS, signal);
    const before = await readBaseline(files);
    const now = () => performance.now();
    const options = { mac: MAC, files, before, timeoutMs: ROUND_TIMEOUT_MS, signal };
    const ours = discoverAddress(options).then(now);
    // A boot comes at any moment of a poller's pause.
    const poller = poll(files, JSON.stringify(before), Math.random() * POLL_MS, signal).then(now);
    const acknowledged = within(lines.next('ack'), ROUND_TIMEOUT_MS, 'a DHCPACK', signal).then(now);
    // udhcpc(8): renew now.
    client.kill('SIGUSR1');
    const [ack, known, polled] = await Promise.all([acknowledged, ours, poller]);
    values.get(OURS)?.push(known - ack);
    values.get(POLLER)?.push(polled - ack);
  }
  return [
    {
      title: "From a renewal's DHCPACK on the wire to the address known; the server writes the lease first",
      unit: 'ms' as const,
      baseline: POLLER,
      series: pick(values, [OURS, POLLER]),
      aims: [{ series: OURS, of: 'median' as const, max: 50 }],
    },
  ];
}

/** Looks every 2 s, for the first time after `first` ms, until the leases differ. */
async function poll(files: Parameters<typeof readBaseline>[0], before: string, first: number, signal: AbortSignal) {
  const deadline = performance.now() + ROUND_TIMEOUT_MS;
  for (let pause = first; performance.now() < deadline; pause = POLL_MS) {
    await sleep(pause, signal);
    if (JSON.stringify(await readBaseline(files)) !== before) return;
  }
  throw new TshyveError('timeout', 'The poller saw no new lease.');
}

/** Waits for lines of a program. */
class LineWatch {
  #waiting: { readonly line: string; readonly resolve: () => void } | undefined;

  constructor(output: Readable | null) {
    let rest = '';
    output?.setEncoding('utf8').on('data', (chunk: string) => {
      const lines = (rest + chunk).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) {
        if (line !== this.#waiting?.line) continue;
        this.#waiting.resolve();
        this.#waiting = undefined;
      }
    });
  }

  /** Resolves with the next such line; one at a time. */
  next(line: string): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting = { line, resolve };
    });
  }
}
