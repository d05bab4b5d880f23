import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { userInfo } from 'node:os';

import { type FileLock, type Log, TshyveError, lockFile, messageOf, sleep, writeFileAtomic } from '../../base/index.js';
import type { Permitted } from './accounts.js';
import {
  type NetworkDefinition,
  type NetworkPlace,
  bridgeName,
  checkNetworkName,
  gateway,
  gateway6,
  networkPlace,
  readDefinition,
  writeDefinition,
} from './definition.js';
import { dnsmasqConfig } from './dnsmasq-config.js';
import { enableForwarding, restoreForwarding } from './forwarding.js';
import { commandEnvironment, must, routedSubnets } from './host.js';
import { othersAreUp } from './liveness.js';
import { endNamespace, openNamespace } from './namespace.js';
import { nftablesRemoval, nftablesRules } from './nftables.js';
import { watchResolver } from './resolver-watch.js';
import { type Scope, ownScope } from './scope.js';
import { chooseIPv6Prefix, chooseSubnet, formatSubnet, overlaps } from './subnet.js';
import { TapService } from './tap-service.js';
import { Uplink, uplinkAddresses } from './uplink.js';

/** dnsmasq that ends sooner than this after its start counts as failing. */
const HEALTHY_MS = 5_000;
const FIRST_RETRY_MS = 100;
const LAST_RETRY_MS = 5_000;
const STOP_TIMEOUT_MS = 3_000;
const RESOLV_CONF = '/etc/resolv.conf';

/**
 * Holds a shared network up: bridge, addresses, rules, dnsmasq. It runs as long as the network is up and heals it: a
 * dnsmasq that dies is started again, a bridge that is removed is made anew and the machines' interfaces put back.
 */
export class NetworkKeeper {
  readonly #place: NetworkPlace;
  readonly #log: Log;
  readonly #definition: NetworkDefinition;
  readonly #lock: FileLock;
  readonly #ended = new AbortController();
  readonly #taps: TapService;
  readonly #scope: Scope;
  /** How a namespace reaches the world; the host's own needs none. */
  readonly #uplink: Uplink | undefined;
  #dnsmasq: ChildProcess | undefined;
  #monitor: ChildProcess | undefined;
  #stopping = false;
  #serving: Promise<void> = Promise.resolve();
  #healing: Promise<void> = Promise.resolve();

  private constructor(
    definition: NetworkDefinition,
    scope: Scope,
    uplink: Uplink | undefined,
    lock: FileLock,
    log: Log,
  ) {
    this.#definition = definition;
    this.#place = networkPlace(definition.name);
    this.#scope = scope;
    this.#uplink = uplink;
    this.#lock = lock;
    this.#log = log;
    this.#taps = new TapService(definition.name, this.#place, log);
  }

  /**
   * Brings a network up; resolves once DHCP and DNS answer. Whatever an earlier keeper has left is taken over.
   * @param permitted who may attach machines from now on; undefined: those who might before
   * @throws TshyveError `busy` when it is up, `precondition` when the host lacks a program, a permission or a subnet
   */
  static async start(name: string, log: Log, permitted?: Permitted): Promise<NetworkKeeper> {
    checkNetworkName(name);
    const place = networkPlace(name);
    await mkdir(place.hosts, { recursive: true, mode: 0o755 });
    const lock = await lockFile(place.lock);
    try {
      const namespace = place.rootless ? await openNamespace(place) : undefined;
      const scope = namespace?.scope ?? ownScope;
      const definition = await define(name, permitted, scope);
      const uplink = namespace === undefined ? undefined : new Uplink(namespace.pid, log);
      const keeper = new NetworkKeeper(definition, scope, uplink, lock, log);
      try {
        await keeper.#raise();
      } catch (error) {
        await keeper.#lower();
        throw error;
      }
      return keeper;
    } catch (error) {
      await lock.release();
      throw error;
    }
  }

  get definition(): NetworkDefinition {
    return this.#definition;
  }

  /** Reads again who may attach machines. */
  async reload(): Promise<void> {
    const definition = await readDefinition(this.#definition.name);
    if (definition !== undefined && !this.#stopping) await this.#taps.permit(definition.permitted);
  }

  /** Takes the network down and leaves nothing of it on the host but its definition and leases. */
  async stop(): Promise<void> {
    if (this.#stopping) return;
    this.#stopping = true;
    await this.#healing;
    await this.#lower();
    await this.#lock.release();
  }

  async #raise(): Promise<void> {
    await this.#makeBridge();
    // Those of machines that outlived an earlier keeper.
    await this.#reattachTaps();
    if (this.#uplink === undefined) {
      await enableForwarding();
      await this.#befriendDocker('-I');
    } else {
      await this.#scope.must('ip', ['link', 'set', 'lo', 'up']);
      await this.#uplink.start();
      await this.#scope.setSysctl('net/ipv4/ip_forward', '1');
    }
    await this.#scope.must('nft', ['-f', '-'], nftablesRules(this.#definition));
    await this.#startServing();
    if (this.#uplink === undefined) await this.#taps.permit(this.#definition.permitted);
    this.#watchBridge();
    watchResolver(RESOLV_CONF, () => this.#dnsmasq?.kill('SIGHUP'), this.#ended.signal);
    const status = {
      keeperPid: process.pid,
      bridge: bridgeName(this.#definition.name),
      gateway: gateway(this.#definition),
      gateway6: gateway6(this.#definition),
    };
    await writeFileAtomic(this.#place.status, `${JSON.stringify(status, null, 2)}\n`, 0o644);
  }

  async #lower(): Promise<void> {
    this.#stopping = true;
    this.#ended.abort();
    this.#monitor?.kill();
    await this.#taps.close();
    await this.#stopServing();
    const attempt = async (what: string, act: () => Promise<unknown>) => {
      try {
        await act();
      } catch (error) {
        this.#log.info(`${what}: ${messageOf(error)}`);
      }
    };
    const bridge = bridgeName(this.#definition.name);
    const scope = this.#scope;
    const machines = (await scope.bridgePorts(bridge)).length > 0;
    await attempt('rules', () => scope.must('nft', ['-f', '-'], nftablesRemoval(this.#definition.name)));
    if (scope.interfaceExists(bridge)) await attempt('bridge', () => scope.must('ip', ['link', 'delete', bridge]));
    if (this.#uplink === undefined) {
      await attempt('docker', () => this.#befriendDocker('-D'));
      await attempt('forwarding', () => restoreForwarding(() => othersAreUp(this.#definition.name)));
    } else {
      await this.#uplink.stop();
      // The next keeper finds the interfaces of machines that go on where they are.
      if (!machines) await attempt('namespace', () => endNamespace(this.#place));
    }
    await rm(this.#place.status, { force: true });
    await rm(this.#place.dnsmasqConfig, { force: true });
  }

  async #makeBridge(): Promise<void> {
    const { ipv4, name } = this.#definition;
    const bridge = bridgeName(name);
    const scope = this.#scope;
    if (!scope.interfaceExists(bridge)) {
      await scope.must('ip', ['link', 'add', bridge, 'type', 'bridge', 'forward_delay', '0', 'stp_state', '0']);
    }
    // NetworkManager would take a new bridge for something to configure; it leaves alone what has addresses already.
    await scope.must('ip', [
      'address',
      'replace',
      `${gateway(this.#definition)}/${String(ipv4.length)}`,
      'dev',
      bridge,
    ]);
    if (await scope.hasSysctl(`net/ipv6/conf/${bridge}`)) {
      await scope.must('ip', ['-6', 'address', 'replace', `${gateway6(this.#definition)}/64`, 'dev', bridge, 'nodad']);
    }
    await scope.must('ip', ['link', 'set', bridge, 'up']);
  }

  /** Docker on the host lets nothing be forwarded that it does not know; DOCKER-USER is its door for others. */
  async #befriendDocker(operation: '-I' | '-D'): Promise<void> {
    const bridge = bridgeName(this.#definition.name);
    const chain = await must('iptables', ['-S', 'DOCKER-USER']).catch(() => undefined);
    if (chain === undefined) return;
    for (const direction of ['-i', '-o']) {
      const present = chain.includes(`${direction} ${bridge} `);
      if (present === (operation === '-D')) {
        await must('iptables', [operation, 'DOCKER-USER', direction, bridge, '-j', 'ACCEPT']);
      }
    }
  }

  async #startServing(): Promise<void> {
    const place = this.#place;
    const config = dnsmasqConfig(
      this.#definition,
      place,
      this.#uplink === undefined
        ? {
            upstream: { resolvConf: RESOLV_CONF },
            // dnsmasq gives root up by itself, but must be able to write its leases.
            user: userInfo().username,
            group: process.getgid?.() === 0 ? 'root' : undefined,
          }
        : // The only user and group that its namespace has.
          { upstream: { server: uplinkAddresses.resolver }, host: uplinkAddresses.host, user: 'root', group: '' },
    );
    await writeFile(place.dnsmasqConfig, config, { mode: 0o644 });
    await must('dnsmasq', ['--test', `--conf-file=${place.dnsmasqConfig}`]);
    let ready: () => void = () => undefined;
    const first = new Promise<void>((resolve) => {
      ready = resolve;
    });
    this.#serving = this.#serve(ready);
    // The first start either works or ends at once, with a reason in the log.
    await Promise.race([
      first,
      this.#serving.then(() => {
        throw new TshyveError('precondition', `dnsmasq does not start; ${place.log} says why.`);
      }),
    ]);
  }

  /** Runs dnsmasq again and again, until the network is taken down. */
  async #serve(onReady: () => void): Promise<void> {
    let pause = FIRST_RETRY_MS;
    while (!this.#stopping) {
      const begun = performance.now();
      // Inside of the namespace, as its root: entering it would make the kernel forget that.
      const mortal = ['--pdeathsig', 'KILL', '--', 'dnsmasq', `--conf-file=${this.#place.dnsmasqConfig}`];
      const child = spawn(...this.#scope.command('setpriv', mortal), {
        stdio: ['ignore', 'ignore', 'pipe'],
        env: commandEnvironment(),
      });
      this.#dnsmasq = child;
      let said = '';
      child.stderr.setEncoding('utf8');
      child.stderr.on('data', (chunk: string) => {
        said = (said + chunk).slice(-2000);
        // dnsmasq says so once its sockets are open.
        if (said.includes('started, version')) onReady();
        for (const line of chunk.trimEnd().split('\n')) this.#log.debug(`dnsmasq: ${line}`);
      });
      const how = await new Promise<string>((resolve) => {
        child.once('error', (error) => {
          resolve(error.message);
        });
        child.once('close', (code, signal) => {
          resolve(signal === null ? `exit code ${String(code)}` : `signal ${signal}`);
        });
      });
      this.#dnsmasq = undefined;
      // The field may have changed during the wait, which the type checker cannot see.
      if (this.#isStopping()) return;
      this.#log.info(`dnsmasq ended (${how}); starting it again. ${said.trim().split('\n').at(-1) ?? ''}`);
      pause = performance.now() - begun > HEALTHY_MS ? FIRST_RETRY_MS : Math.min(pause * 2, LAST_RETRY_MS);
      await sleep(pause);
    }
  }

  #isStopping(): boolean {
    return this.#stopping;
  }

  async #stopServing(): Promise<void> {
    const child = this.#dnsmasq;
    if (child === undefined) return;
    const ended = new Promise((resolve) => child.once('close', resolve));
    child.kill('SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
    await ended;
    clearTimeout(timer);
  }

  /** Notices by rtnetlink, through ip-monitor(8), that the bridge was removed or set down. */
  #watchBridge(): void {
    const mortal = ['--pdeathsig', 'KILL', '--', 'ip', '-o', 'monitor', 'link'];
    const monitor = spawn(...this.#scope.command('setpriv', mortal), {
      stdio: ['ignore', 'pipe', 'ignore'],
      env: commandEnvironment(),
    });
    this.#monitor = monitor;
    const bridge = bridgeName(this.#definition.name);
    let rest = '';
    monitor.stdout.setEncoding('utf8');
    monitor.stdout.on('data', (chunk: string) => {
      const lines = (rest + chunk).split('\n');
      rest = lines.pop()?.slice(-4096) ?? '';
      if (lines.some((line) => line.startsWith('Deleted ') && line.includes(` ${bridge}:`))) this.#heal();
    });
    monitor.on('error', () => undefined);
  }

  #heal(): void {
    if (this.#stopping) return;
    this.#healing = this.#healing.then(async () => {
      if (this.#isStopping()) return;
      try {
        this.#log.info('The bridge was removed; making it anew.');
        await this.#makeBridge();
        await this.#reattachTaps();
      } catch (error) {
        this.#log.info(`The bridge cannot be made again: ${messageOf(error)}`);
      }
    });
  }

  /** Puts the interfaces of the machines back on the bridge. */
  async #reattachTaps(): Promise<void> {
    const bridge = bridgeName(this.#definition.name);
    for (const tap of await readdir(this.#place.hosts)) {
      if (this.#scope.interfaceExists(tap)) await this.#scope.must('ip', ['link', 'set', tap, 'master', bridge]);
    }
  }
}

/** The definition of a network; a subnet that the host meanwhile uses otherwise is replaced by a free one. */
async function define(name: string, permitted: Permitted | undefined, scope: Scope): Promise<NetworkDefinition> {
  const known = await readDefinition(name).catch((error: unknown) => {
    // A damaged file holds nothing that cannot be chosen again.
    if (TshyveError.is(error, 'invalid-config')) return undefined;
    throw error;
  });
  const bridge = bridgeName(name);
  const own = scope.interfaceExists(bridge) && known !== undefined;
  const taken = await routedSubnets();
  if (known !== undefined && (own || !taken.some((other) => overlaps(other, known.ipv4)))) {
    if (permitted === undefined) return known;
    const changed = { ...known, permitted };
    await writeDefinition(changed);
    return changed;
  }
  const ipv4 = chooseSubnet(name, taken);
  if (ipv4 === undefined) {
    throw new TshyveError(
      'precondition',
      'No private /24 network is free on this host: every one has a route already.',
    );
  }
  const definition = {
    version: 1 as const,
    name,
    ipv4,
    ipv6: chooseIPv6Prefix(`${name} ${formatSubnet(ipv4)}`),
    permitted: permitted ?? known?.permitted ?? { users: [], groups: [] },
  };
  await writeDefinition(definition);
  return definition;
}
