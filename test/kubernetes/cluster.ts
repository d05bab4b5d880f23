import { resolve } from 'node:path';

import { expect } from 'vitest';

import { run } from '../../driver/base/index.js';
import { type World, image } from '../minikube/world.js';

const seed = resolve(import.meta.dirname, '../../integrations/minikube/seed/seed.sh');

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

  /** Opens the world, with the seeded cache and the network that nodes need. */
  async prepare(): Promise<void> {
    await this.#world.open();
    // Not in the world's own HOME, as the user's leads to the caches of Go and of the seed.
    const seeded = await run(seed, ['--minikube-home', this.#world.home], { timeoutMs: 3_500_000 });
    expect(seeded.code, seeded.stdout + seeded.stderr).toBe(0);
    expect(await this.#world.tshyve('network', 'up', 'shared')).toMatchObject({ code: 0 });
  }

  /** `minikube start`. There is no limit but the test's own: emulated processors are ten times slower than real ones. */
  start(...more: string[]): Promise<void> {
    return this.patiently(
      ...['start', '--driver=tshyve', '--container-runtime=containerd', '--preload=false', '--network=shared'],
      ...[`--iso-url=file://${image}`, '--cpus=2', '--disk-size=8000', '--interactive=false', '--force'],
      ...['--wait-timeout=30m', ...more],
    );
  }

  /** Runs minikube without a limit, and expects success. */
  async patiently(...args: string[]): Promise<void> {
    const { output, ended } = this.#world.spawn(...args, '-p', this.#profile);
    expect(await ended, output()).toBe(0);
  }

  kubectl(...args: string[]): Promise<string> {
    return this.#world.ok('kubectl', '-p', this.#profile, '--', ...args);
  }

  /** The nodes or pods that a query tells of. */
  async items(...query: string[]): Promise<readonly Item[]> {
    const told: unknown = JSON.parse(await this.kubectl('get', ...query, '-o', 'json'));
    return (told as { items: Item[] }).items;
  }
}
