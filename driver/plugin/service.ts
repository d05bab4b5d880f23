import { TshyveError } from '../base/index.js';
import { type CreateFlag, type Driver, type FlagValue, type Operation, machineStates } from '../machine/driver.js';
import { type GobSchema, type GobValue, text } from './gob/index.js';
import { emptyStruct, emptyValue } from './netrpc/index.js';

/** The only libmachine plugin API there is. */
const API_VERSION = 1n;

/** What every current client calls, and the name from before libmachine 0.5.1. */
const serviceNames = new Set(['RPCServerDriver', 'RpcServerDriver']);

/** How calls are scheduled: changes of the machine one after the other, everything else at once. */
export type MethodKind = 'query' | 'change' | 'close';

/** One method of the contract: what it takes, what it answers. */
export interface Method {
  readonly kind: MethodKind;
  readonly reply: GobSchema;
  /** @throws TshyveError `protocol` when the argument has the wrong type */
  run(driver: Driver, argument: GobValue, operation: Operation): GobValue | Promise<GobValue>;
}

const flagTypes = {
  '*mcnflag.StringFlag': flagSchema('StringFlag', 'string'),
  '*mcnflag.IntFlag': flagSchema('IntFlag', 'int'),
  '*mcnflag.BoolFlag': {
    kind: 'struct',
    name: 'BoolFlag',
    fields: [
      ['Name', 'string'],
      ['Usage', 'string'],
      ['EnvVar', 'string'],
    ],
  },
  '*mcnflag.StringSliceFlag': flagSchema('StringSliceFlag', { kind: 'slice', element: 'string' }),
} as const satisfies Record<string, GobSchema>;

const flagsSchema: GobSchema = { kind: 'slice', element: { kind: 'interface', types: flagTypes } };

const methods: Readonly<Record<string, Method>> = {
  GetVersion: query('int', () => ({ kind: 'int', value: API_VERSION })),
  Heartbeat: query(emptyStruct, () => emptyValue),
  Close: { kind: 'close', reply: emptyStruct, run: () => emptyValue },
  SetConfigRaw: {
    kind: 'query',
    reply: emptyStruct,
    run: (driver, argument) => {
      if (argument.kind !== 'bytes') throw wrongArgument('SetConfigRaw', 'bytes', argument);
      driver.setConfigRaw(argument.value.toString('utf8'));
      return emptyValue;
    },
  },
  GetConfigRaw: query('bytes', (driver) => ({ kind: 'bytes', value: Buffer.from(driver.getConfigRaw()) })),
  GetCreateFlags: query(flagsSchema, (driver) => ({
    kind: 'slice',
    elements: driver.createFlags().map(encodeFlag),
  })),
  SetConfigFromFlags: {
    kind: 'query',
    reply: emptyStruct,
    run: (driver, argument) => {
      driver.setConfigFromFlags(decodeFlagValues(argument));
      return emptyValue;
    },
  },
  DriverName: query('string', (driver) => string(driver.driverName)),
  GetMachineName: query('string', (driver) => string(driver.machineName)),
  GetIP: query('string', async (driver) => string(await driver.getIP())),
  GetIPv6: query('string', async (driver) => string(await driver.getIPv6())),
  GetURL: query('string', async (driver) => string(await driver.getURL())),
  GetSSHHostname: query('string', async (driver) => string(await driver.getSSHHostname())),
  GetSSHPort: query('int', async (driver) => ({ kind: 'int', value: BigInt(await driver.getSSHPort()) })),
  GetSSHKeyPath: query('string', (driver) => string(driver.getSSHKeyPath())),
  GetSSHUsername: query('string', (driver) => string(driver.getSSHUsername())),
  GetState: query('int', async (driver) => ({
    kind: 'int',
    value: BigInt(machineStates.indexOf(await driver.getState())),
  })),
  PreCreateCheck: change((driver, operation) => driver.preCreateCheck(operation)),
  Create: change((driver, operation) => driver.create(operation)),
  Start: change((driver, operation) => driver.start(operation)),
  Stop: change((driver, operation) => driver.stop(operation)),
  Restart: change((driver, operation) => driver.restart(operation)),
  Kill: change((driver, operation) => driver.kill(operation)),
  Remove: change((driver, operation) => driver.remove(operation)),
};

/**
 * Looks up `Service.Method` as Go's server does, split at the last dot, with Go's own words for what is wrong.
 * @throws TshyveError `protocol`
 */
export function findMethod(serviceMethod: string): Method {
  const dot = serviceMethod.lastIndexOf('.');
  if (dot < 0) throw new TshyveError('protocol', `rpc: service/method request ill-formed: ${serviceMethod}`);
  if (!serviceNames.has(serviceMethod.slice(0, dot))) {
    throw new TshyveError('protocol', `rpc: can't find service ${serviceMethod}`);
  }
  const name = serviceMethod.slice(dot + 1);
  const method = Object.hasOwn(methods, name) ? methods[name] : undefined;
  if (method === undefined) throw new TshyveError('protocol', `rpc: can't find method ${serviceMethod}`);
  return method;
}

function query(reply: GobSchema, run: (driver: Driver) => GobValue | Promise<GobValue>): Method {
  return { kind: 'query', reply, run: (driver) => run(driver) };
}

function change(run: (driver: Driver, operation: Operation) => Promise<void>): Method {
  return {
    kind: 'change',
    reply: emptyStruct,
    run: async (driver, _argument, operation) => {
      await run(driver, operation);
      return emptyValue;
    },
  };
}

function string(value: string): GobValue {
  return { kind: 'string', value: Buffer.from(value) };
}

function wrongArgument(method: string, wanted: string, got: GobValue): TshyveError {
  return new TshyveError('protocol', `gob: ${method} takes ${wanted}, got ${got.kind}`);
}

function flagSchema(name: string, value: GobSchema): GobSchema {
  return {
    kind: 'struct',
    name,
    fields: [
      ['Name', 'string'],
      ['Usage', 'string'],
      ['EnvVar', 'string'],
      ['Value', value],
    ],
  };
}

function encodeFlag(flag: CreateFlag): GobValue {
  const fields = new Map<string, GobValue>([
    ['Name', string(flag.name)],
    ['Usage', string(flag.usage)],
    ['EnvVar', string(flag.envVar)],
  ]);
  let type: keyof typeof flagTypes;
  switch (flag.kind) {
    case 'string':
      type = '*mcnflag.StringFlag';
      fields.set('Value', string(flag.value));
      break;
    case 'int':
      type = '*mcnflag.IntFlag';
      fields.set('Value', { kind: 'int', value: BigInt(flag.value) });
      break;
    case 'bool':
      type = '*mcnflag.BoolFlag';
      break;
    case 'strings':
      type = '*mcnflag.StringSliceFlag';
      fields.set('Value', { kind: 'slice', elements: flag.value.map(string) });
      break;
  }
  return { kind: 'interface', type, value: { kind: 'struct', fields } };
}

/** Takes `*rpcdriver.RPCFlags{Values map[string]interface{}}` apart. */
function decodeFlagValues(argument: GobValue): ReadonlyMap<string, FlagValue> {
  if (argument.kind !== 'interface' || argument.type !== '*rpcdriver.RPCFlags' || argument.value?.kind !== 'struct') {
    throw wrongArgument('SetConfigFromFlags', 'an interface holding *rpcdriver.RPCFlags', argument);
  }
  const values = argument.value.fields.get('Values');
  const result = new Map<string, FlagValue>();
  if (values === undefined) return result;
  if (values.kind !== 'map') throw wrongArgument('SetConfigFromFlags', 'a map of flag values', values);
  for (const [key, value] of values.entries) {
    if (key.kind !== 'string' || value.kind !== 'interface') {
      throw wrongArgument('SetConfigFromFlags', 'a map of strings to interfaces', value);
    }
    result.set(text(key), flagValue(text(key), value.value));
  }
  return result;
}

function flagValue(name: string, value: GobValue | undefined): FlagValue {
  if (value === undefined) return null;
  switch (value.kind) {
    case 'string':
      return text(value);
    case 'int': {
      const number = Number(value.value);
      if (!Number.isSafeInteger(number)) {
        throw new TshyveError('usage', `--${name} is ${String(value.value)}, which is far out of range.`);
      }
      return number;
    }
    case 'bool':
      return value.value;
    case 'slice':
      return value.elements.map((element) => text(element));
    case 'array':
    case 'bytes':
    case 'complex':
    case 'float':
    case 'interface':
    case 'map':
    case 'opaque':
    case 'struct':
    case 'uint':
      throw wrongArgument('SetConfigFromFlags', `a string, int, bool or []string for --${name}`, value);
  }
}
