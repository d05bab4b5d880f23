import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { run } from '../../driver/base/index.js';

const root = resolve(import.meta.dirname, '../..');
const minikube = join(root, 'integrations/minikube/out/minikube-tshyve');
const seed = join(root, 'integrations/minikube/seed/seed.sh');
const cannotRun = !existsSync(minikube) || process.getuid?.() !== 0;
if (cannotRun) console.warn(`These tests need root and ${minikube}: run scripts/test.sh --kubernetes`);

describe.skipIf(cannotRun)('the cache for Kubernetes that seed.sh fills', () => {
  const folder = mkdtempSync(join(tmpdir(), 'tsk-'));
  const home = join(folder, '.minikube');
  const namespace = `tsk${String(process.pid)}`;
  const image = join(folder, 'guest.iso');
  // The user's own HOME stays, as it leads to Go's caches.
  const settings = {
    MINIKUBE_HOME: home,
    KUBECONFIG: join(folder, 'kubeconfig'),
    MINIKUBE_WANTUPDATENOTIFICATION: 'false',
  };
  const env = { ...process.env, ...settings };
  const host = async (program: string, ...args: string[]) => {
    const { code, stdout, stderr } = await run(program, args, { env, timeoutMs: 3_500_000 });
    return { code, text: stdout + stderr };
  };
  /** What minikube fetches before a start, on a host without a network. */
  const download = () =>
    host(
      ...(['ip', 'netns', 'exec', namespace, minikube, 'start', '--download-only'] as const),
      ...['--driver=tshyve', '--container-runtime=containerd', '--cni=bridge', '--preload=false'],
      ...[`--iso-url=file://${image}`, '--interactive=false', '--force'],
    );
  const list = async (state: string) => {
    const { text } = await host(seed, '--minikube-home', folder, '--list');
    return text.split('\n').flatMap((line) => (line.startsWith(state) ? [line.slice(state.length).trim()] : []));
  };

  beforeAll(async () => {
    // What is in it does not matter: nothing boots here.
    writeFileSync(image, 'not booted');
    expect((await host('ip', 'netns', 'add', namespace)).code).toBe(0);
    expect((await host('ip', 'netns', 'exec', namespace, 'ip', 'link', 'set', 'lo', 'up')).code).toBe(0);
  });
  afterAll(async () => {
    await host('ip', 'netns', 'delete', namespace);
    rmSync(folder, { recursive: true, force: true });
  });

  test('minikube cannot do without it', async () => {
    expect(await list('present')).toEqual([]);
    const { code, text } = await download();
    expect(code).not.toBe(0);
    expect(text).toMatch(/kubeadm|kubelet|kubectl|images/);
  });

  test('says what it holds, and by exact name what it cannot', async () => {
    const { code, text } = await host(seed, '--minikube-home', folder);
    expect(code, text).toBe(0);
    expect(text).toContain('11 of 11 files placed');
    expect(await list('missing')).toEqual([]);
    expect((await list('present')).join('\n')).toMatch(/kubeadm[^]*kube-proxy_v1[^]*pause_[^]*storage-provisioner_v5/);
    expect((await list('not ours')).join('\n')).toMatch(/preloaded-images-k8s-v.*\.tar\.lz4[^]*kindnetd_v/);
  });

  test('minikube finds all that it would download', async () => {
    const { code, text } = await download();
    expect(code, text).toBe(0);
    expect(text).toContain('Download complete!');
  });

  test('a damaged or missing file is put right, and nothing else is touched', async () => {
    const [first = '', second = ''] = await list('present');
    const whole = readFileSync(first);
    writeFileSync(first, 'damaged');
    rmSync(second);
    expect(await list('missing')).toEqual([second]);
    expect((await host(seed, '--minikube-home', folder)).text).toContain('2 of 11 files placed');
    expect(readFileSync(first).equals(whole)).toBe(true);
  });
});
