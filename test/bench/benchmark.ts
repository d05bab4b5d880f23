import type { Comparison } from './harness.js';
import type { PartName, World } from './world.js';

/** What a benchmark gets. */
export interface Bench {
  readonly root: string;
  readonly world: World;
  readonly rounds: number;
  readonly signal: AbortSignal;
  /** Tells a waiting person what goes on. */
  readonly say: (line: string) => void;
}

/** One file of this folder. */
export interface Benchmark {
  /** What --only takes. */
  readonly name: string;
  readonly about: string;
  /** Rounds that give steady medians within the time that `npm run bench` may take. */
  readonly rounds: number;
  readonly needs: readonly PartName[];
  run(bench: Bench): Promise<Comparison[]>;
}
