import { defineConfig } from 'vitest/config';

// forks: addons and process-wide state (locks, environment) stay apart. No retries: they hide races.
export default defineConfig({
  test: {
    pool: 'forks',
    // Waiting for what will come costs nothing; the default of a second is too little for a busy machine.
    expect: { poll: { timeout: process.env['TSHYVE_LAB'] === '1' ? 300_000 : 15_000 } },
    projects: [
      { extends: true, test: { name: 'unit', include: ['test/unit/**/*.test.ts'], testTimeout: 20_000 } },
      {
        extends: true,
        test: { name: 'conformance', include: ['test/conformance/**/*.test.ts'], testTimeout: 300_000 },
      },
      {
        extends: true,
        test: {
          name: 'e2e',
          include: ['test/e2e/**/*.test.ts'],
          testTimeout: 600_000,
          hookTimeout: 600_000,
          fileParallelism: false,
        },
      },
      {
        extends: true,
        // A foreign guest, emulated: see iso/README.md.
        test: { name: 'arm64', include: ['test/arm64/**/*.test.ts'], testTimeout: 900_000, hookTimeout: 900_000 },
      },
      {
        extends: true,
        // Images that EFI firmware boots: see docs/usage.md.
        test: {
          name: 'firmware',
          include: ['test/firmware/**/*.test.ts'],
          testTimeout: 600_000,
          hookTimeout: 600_000,
          fileParallelism: false,
        },
      },
      {
        extends: true,
        // The seeded cache takes long to build the first time.
        test: {
          name: 'kubernetes',
          include: ['test/kubernetes/**/*.test.ts'],
          testTimeout: 3_600_000,
          hookTimeout: 600_000,
          fileParallelism: false,
        },
      },
      {
        extends: true,
        // Real machines of a minikube with our driver: see docs/minikube.md.
        test: {
          name: 'minikube',
          include: ['test/minikube/**/*.test.ts'],
          testTimeout: 600_000,
          hookTimeout: 600_000,
          fileParallelism: false,
        },
      },
      {
        extends: true,
        // Inside the lab machine, whose processors are slow: see test/lab/README.md.
        test: {
          name: 'lab',
          include: ['test/lab/inside/**/*.test.ts'],
          testTimeout: 600_000,
          hookTimeout: 600_000,
          fileParallelism: false,
        },
      },
    ],
  },
});
