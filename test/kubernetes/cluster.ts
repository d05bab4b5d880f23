import { writeFileSync } from 'node:fs';
import { resolve } from 'node:path';

import { expect } from 'vitest';

import { run } from '../../driver/base/index.js';
import { type World, image } from '../minikube/world.js';

const script = resolve(import.meta.dirname, '../../integrations/minikube/seed/seed.sh');

/** A condition of a node or a pod. */
interface Condition {
  readonly type: string;
  readonly status: string;
}
interface Item {
  readonly metadata: { readonly name: string };
  readonly status: {
    readonly conditions?: readonly Condition[];
    readonly nodeInfo?: { readonly containerRuntimeVersion: string };
  };
}

export function isReady({ status }: Item): boolean {
  return (status.conditions ?? []).some((condition) => condition.type === 'Ready' && condition.status === 'True');
}

/** A profile of minikube with Kubernetes, in a world without a network. */
export class Cluster {
  readonly #world: World;
  readonly #profile: string;

  constructor(world: World, profile: string) {
    this.#world = world;
    this.#profile = profile;
  }

  /** Runs seed.sh for the world's cache, expects success and returns what it wrote. */
  async seed(...args: string[]): Promise<string> {
    // Not in the world's own HOME, as the user's leads to the caches of Go and of the seed.
    const { code, stdout, stderr } = await run(script, ['--minikube-home', this.#world.home, ...args], {
      timeoutMs: 3_500_000,
    });
    expect(code, stdout + stderr).toBe(0);
    return stdout;
  }

  /** Opens the world, with the seeded cache and the network that nodes need. */
  async prepare(): Promise<void> {
    await this.#world.open();
    await this.seed();
    expect(await this.#world.tshyve('network', 'up', 'shared')).toMatchObject({ code: 0 });
  }

  /** `minikube start` with Kubernetes out of the cache. */
  startArgs(...more: string[]): string[] {
    const machine = [
      '--driver=tshyve',
      '--network=shared',
      `--iso-url=file://${image}`,
      '--cpus=2',
      '--disk-size=8000',
    ];
    const cluster = ['--container-runtime=containerd', '--preload=false', '--wait-timeout=30m'];
    return ['start', '-p', this.#profile, ...machine, ...cluster, '--interactive=false', '--force', ...more];
  }

  start(...more: string[]): Promise<void> {
    return this.#patiently(this.startArgs(...more));
  }

  /** Runs minikube for this profile, and expects success. */
  patiently(...args: string[]): Promise<void> {
    return this.#patiently([...args, '-p', this.#profile]);
  }

  /** There is no limit but the test's own: emulated processors are ten times slower than real ones. */
  async #patiently(args: readonly string[]): Promise<void> {
    const favour = setInterval(() => {
      this.#favour();
    }, 1000);
    const { output, ended } = this.#world.spawn(...args);
    const code = await ended.finally(() => {
      clearInterval(favour);
    });
    expect(code, output()).toBe(0);
  }

  /**
   * Lets the machines go before other work of the host: kubeadm gives a control plane four minutes, of which emulated
   * processors need half when they have the host for themselves. What the scheduler weighs are sessions, sched(7).
   */
  #favour(): void {
    for (const pid of this.#world.supervisors()) {
      try {
        writeFileSync(`/proc/${String(pid)}/autogroup`, '-5');
      } catch {
        // Gone meanwhile, or of a kernel that does not weigh sessions.
      }
    }
  }

  kubectl(...args: string[]): Promise<string> {
    return this.#world.ok('kubectl', '-p', this.#profile, '--', ...args);
  }

  /** The nodes or pods that a query tells of. */
  async items(...query: string[]): Promise<readonly Item[]> {
    const told: unknown = JSON.parse(await this.kubectl('get', ...query, '-o', 'json'));
    return (told as { items: Item[] }).items;
  }

  /** Waits until the nodes or pods of a query are ready. */
  async ready(...query: string[]): Promise<void> {
    await this.kubectl('wait', '--for=condition=Ready', ...query, '--timeout=9m');
  }

  /** Asks the cluster's DNS from a node, through its service; returns the answer. */
  async lookUp(name: string, node: string): Promise<string> {
    const service = ['service', '-n', 'kube-system', 'kube-dns', '-o', 'jsonpath={.spec.clusterIP}'];
    const dns = await this.kubectl('get', ...service);
    return this.#world.ssh(this.#profile, `busybox nslookup -type=a ${name} ${dns}`, '-n', node);
  }
}
