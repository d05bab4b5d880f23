import { createReadStream } from 'node:fs';
import { open, rm } from 'node:fs/promises';
import { type Server, type Socket, connect, createServer } from 'node:net';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';

import { TshyveError, checkSocketPath, codeOf, fileError, sleep, within } from '../../base/index.js';
import type { QmpClient, QmpEvent } from './qmp.js';

/** Memory goes through at some hundred MB a second. */
const TIMEOUT_MS = 600_000;
/** How long the error of a broken stream may come after QEMU's. */
const LAST_WORDS_MS = 1_000;
/** QEMU's own limit is made for networks: 128 MiB/s. */
const UNLIMITED = 2 ** 40;

/**
 * Saves a paused machine with QEMU's migration, which is the one form of its state that it can load again. The stream
 * comes over a unix socket, because our sandbox lets QEMU start no program and open no new file for it.
 * Source: "QEMU QMP Reference Manual", migration.
 * @throws TshyveError `no-space` when the disk is full, `hypervisor` with QEMU's reason
 */
export async function saveMachine(qmp: QmpClient, runDirectory: string, folder: string): Promise<void> {
  const path = checkSocketPath(join(runDirectory, 'save.sock'));
  const server = createServer();
  try {
    const connection = new Promise<Socket>((resolve) => server.once('connection', resolve));
    await listen(server, path);
    await allowEvents(qmp);
    await qmp.execute('migrate-set-parameters', { 'max-bandwidth': UNLIMITED });
    const migrated = migrationEnd(qmp);
    migrated.catch(() => undefined);
    await qmp.execute('migrate', { uri: `unix:${path}` });
    const written = connection.then((socket) => writeStream(socket, stateFile(folder)));
    // A stream that breaks ends the migration as well, and may be heard of later; its error says more.
    const ended = migrated.catch(async (error: unknown) => {
      await Promise.race([written, sleep(LAST_WORDS_MS)]);
      throw error;
    });
    await within(Promise.all([written, ended]), TIMEOUT_MS, 'QEMU to save the machine');
  } finally {
    server.close();
    await rm(path, { force: true });
  }
}

/** Loads what `saveMachine` has saved into a QEMU that was started with `-incoming defer` and the same machine. */
export async function restoreMachine(qmp: QmpClient, runDirectory: string, folder: string): Promise<void> {
  const path = checkSocketPath(join(runDirectory, 'restore.sock'));
  await rm(path, { force: true });
  await allowEvents(qmp);
  const migrated = migrationEnd(qmp);
  migrated.catch(() => undefined);
  // Answers when QEMU listens.
  await qmp.execute('migrate-incoming', { uri: `unix:${path}` });
  const sent = pipeline(createReadStream(stateFile(folder), { highWaterMark: 1 << 20 }), connect(path)).catch(
    (error: unknown) => {
      // QEMU closes the connection when it has all, or does not like what it reads; the event says which.
      if (codeOf(error) !== 'EPIPE' && codeOf(error) !== 'ECONNRESET') throw fileError(`read ${folder}`, error);
    },
  );
  await within(Promise.all([sent, migrated]), TIMEOUT_MS, 'QEMU to load the saved machine');
}

function stateFile(folder: string): string {
  return join(folder, 'qemu.state');
}

async function allowEvents(qmp: QmpClient): Promise<void> {
  await qmp.execute('migrate-set-capabilities', { capabilities: [{ capability: 'events', state: true }] });
}

/** Settles with the migration that is about to begin. */
function migrationEnd(qmp: QmpClient): Promise<void> {
  return new Promise((resolve, reject) => {
    const onEvent = ({ event, data }: QmpEvent) => {
      if (event !== 'MIGRATION' || (data['status'] !== 'completed' && data['status'] !== 'failed')) return;
      stop();
      if (data['status'] === 'completed') resolve();
      else reject(new TshyveError('hypervisor', 'QEMU could not transfer the state of the machine.'));
    };
    const onClose = () => {
      stop();
      reject(new TshyveError('hypervisor', 'QEMU ended while the state of the machine was transferred.'));
    };
    const stop = () => {
      qmp.off('event', onEvent);
      qmp.off('close', onClose);
    };
    qmp.on('event', onEvent);
    qmp.on('close', onClose);
  });
}

async function listen(server: Server, path: string): Promise<void> {
  await rm(path, { force: true });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, resolve);
  });
}

async function writeStream(socket: Socket, path: string): Promise<void> {
  try {
    const file = await open(path, 'wx', 0o600);
    try {
      for await (const chunk of socket) await file.writeFile(chunk as Buffer);
      await file.sync();
    } finally {
      await file.close();
    }
  } catch (error) {
    socket.destroy();
    throw fileError(`write ${path}`, error);
  }
}
