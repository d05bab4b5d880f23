import { mkdir, readFile, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';

import { TshyveError, codeOf, exists, fileError, writeFileAtomic } from '../base/index.js';
import { TshyveDriver } from './tshyve-driver.js';

const CONFIG_VERSION = 3;

/**
 * A folder of machines in libmachine's layout (`<store>/machines/<name>/config.json`), so that docker-machine and our
 * own command can look at the same machines.
 */
export class MachineStore {
  readonly path: string;

  constructor(path: string) {
    this.path = path;
  }

  get certificates(): string {
    return join(this.path, 'certs');
  }

  directory(name: string): string {
    return join(this.path, 'machines', name);
  }

  /** Names of all machines whose driver is ours, sorted. */
  async list(): Promise<string[]> {
    let names: string[];
    try {
      names = await readdir(join(this.path, 'machines'));
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return [];
      throw fileError(`list ${this.path}`, error);
    }
    const kept = await Promise.all(
      names.map(
        async (name) => (await this.#driverName(name).catch(() => 'tshyve')) === 'tshyve' && exists(this.#config(name)),
      ),
    );
    return names.filter((_, index) => kept[index]).sort();
  }

  /** @throws TshyveError `not-found`, `invalid-config` */
  async load(name: string): Promise<TshyveDriver> {
    const stored = await this.#read(name);
    const driver = new TshyveDriver(name, this.path);
    driver.setConfigRaw(JSON.stringify(stored['Driver'] ?? {}));
    return driver;
  }

  /** A driver for a machine that does not exist yet. @throws TshyveError `already-exists` */
  async prepare(name: string): Promise<TshyveDriver> {
    if (await exists(this.directory(name))) throw alreadyExists(name);
    return new TshyveDriver(name, this.path);
  }

  /** Makes the folder of a new machine; of two processes that try, one succeeds. @throws TshyveError `already-exists` */
  async claim(name: string): Promise<void> {
    try {
      await mkdir(join(this.path, 'machines'), { recursive: true, mode: 0o700 });
      await mkdir(this.directory(name), { mode: 0o700 });
    } catch (error) {
      if (codeOf(error) === 'EEXIST') throw alreadyExists(name);
      throw fileError(`make the folder ${this.directory(name)}`, error);
    }
  }

  /** Writes the machine's config.json, keeping what another client put there. */
  async save(driver: TshyveDriver): Promise<void> {
    const name = driver.machineName;
    await mkdir(this.directory(name), { recursive: true, mode: 0o700 });
    const known = (await exists(this.#config(name))) ? await this.#read(name).catch(() => ({})) : {};
    const config = {
      ...this.#hostDefaults(name),
      ...known,
      Driver: JSON.parse(driver.getConfigRaw()) as unknown,
    };
    await writeFileAtomic(this.#config(name), JSON.stringify(config, null, 4));
  }

  /** Forgets a machine that its driver has removed. */
  async forget(name: string): Promise<void> {
    await rm(this.directory(name), { recursive: true, force: true });
  }

  #config(name: string): string {
    return join(this.directory(name), 'config.json');
  }

  async #driverName(name: string): Promise<unknown> {
    return (await this.#read(name))['DriverName'];
  }

  async #read(name: string): Promise<Record<string, unknown>> {
    if (!/^[A-Za-z0-9][A-Za-z0-9.-]*$/.test(name)) {
      throw new TshyveError('usage', `"${name}" is not a machine name. "tshyve ls" lists the machines.`);
    }
    let text: string;
    try {
      text = await readFile(this.#config(name), 'utf8');
    } catch (error) {
      if (codeOf(error) !== 'ENOENT' && codeOf(error) !== 'ENOTDIR')
        throw fileError(`read ${this.#config(name)}`, error);
      throw new TshyveError('not-found', `There is no machine "${name}". "tshyve ls" lists the machines.`);
    }
    try {
      const value = JSON.parse(text) as unknown;
      if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
    } catch {
      // Falls through to the same sentence as a JSON text of another kind.
    }
    throw new TshyveError(
      'invalid-config',
      `${this.#config(name)} is damaged. Restore it, or remove the machine with "tshyve rm -f ${name}".`,
    );
  }

  /** What docker-machine wants to find in a host's config. */
  #hostDefaults(name: string): Record<string, unknown> {
    const certificates = this.certificates;
    const own = this.directory(name);
    return {
      ConfigVersion: CONFIG_VERSION,
      Driver: {},
      DriverName: 'tshyve',
      HostOptions: {
        Driver: '',
        Memory: 0,
        Disk: 0,
        EngineOptions: { TLSVerify: true },
        SwarmOptions: {},
        AuthOptions: {
          CertDir: certificates,
          CaCertPath: join(certificates, 'ca.pem'),
          CaPrivateKeyPath: join(certificates, 'ca-key.pem'),
          ServerCertPath: join(own, 'server.pem'),
          ServerKeyPath: join(own, 'server-key.pem'),
          ClientKeyPath: join(certificates, 'key.pem'),
          ClientCertPath: join(certificates, 'cert.pem'),
          StorePath: own,
        },
      },
      Name: name,
    };
  }
}

function alreadyExists(name: string): TshyveError {
  return new TshyveError('already-exists', `Machine "${name}" already exists. Remove it with "tshyve rm -f ${name}".`);
}
