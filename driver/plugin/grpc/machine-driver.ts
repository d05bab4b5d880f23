import type { UntypedHandleCall } from '@grpc/grpc-js';
import { isAbsolute } from 'node:path';

import { TshyveError } from '../../base/index.js';
import { streaming, unary } from '../../grpc/index.js';
import type { CreateFlag, Driver, DriverFactory, FlagValue, Operation } from '../../machine/driver.js';
import type * as wire from './generated/machine_driver.js';

/** The gRPC methods over any driver. Each call makes its own driver object: config travels with the request. */
export function machineDriverMethods(
  createDriver: DriverFactory,
  debug: (line: string) => void,
): wire.MachineDriverServer & Record<string, UntypedHandleCall> {
  const open = (request: wire.MachineRequest | undefined): Driver => {
    if (request === undefined || request.machineName === '' || !isAbsolute(request.storePath)) {
      throw new TshyveError('usage', 'A call needs machine_name and an absolute store_path.');
    }
    const driver = createDriver(request.machineName, request.storePath);
    if (request.configJson !== '') driver.setConfigRaw(request.configJson);
    if (driver.machineName !== request.machineName) {
      throw new TshyveError('usage', `config_json belongs to the machine "${driver.machineName}".`);
    }
    return driver;
  };
  const change = (run: (driver: Driver, operation: Operation) => Promise<void>) =>
    streaming<wire.MachineRequest, wire.Progress>(async (request, send, signal) => {
      const driver = open(request);
      const info = (line: string) => {
        send({ step: { $case: 'line', value: line } });
      };
      await run(driver, { log: { info, debug }, signal });
      send({ step: { $case: 'done', value: { configJson: driver.getConfigRaw() } } });
    });
  return {
    getCreateFlags: unary(() => ({ flags: createDriver('', '').createFlags().map(wireFlag) })),
    configure: unary((request: wire.ConfigureRequest) => {
      const driver = open(request.machine);
      driver.setConfigFromFlags(
        new Map(Object.entries(request.flags).map(([name, value]) => [name, flagValue(value)])),
      );
      return { configJson: driver.getConfigRaw() };
    }),
    preCreateCheck: change((driver, operation) => driver.preCreateCheck(operation)),
    create: change((driver, operation) => driver.create(operation)),
    start: change((driver, operation) => driver.start(operation)),
    stop: change((driver, operation) => driver.stop(operation)),
    restart: change((driver, operation) => driver.restart(operation)),
    kill: change((driver, operation) => driver.kill(operation)),
    suspend: change((driver, operation) => driver.suspend(operation)),
    remove: change((driver, operation) => driver.remove(operation)),
    upgrade: change((driver, operation) => driver.upgrade(operation)),
    getState: unary(async (request: wire.MachineRequest) => ({ state: await open(request).getState() })),
    getUrl: unary(async (request: wire.MachineRequest) => ({ url: await open(request).getURL() })),
    getIp: unary(async (request: wire.MachineRequest) => ({ ip: await open(request).getIP() })),
    getSshHostname: unary(async (request: wire.MachineRequest) => ({ hostname: await open(request).getSSHHostname() })),
    getSshPort: unary(async (request: wire.MachineRequest) => ({ port: await open(request).getSSHPort() })),
    getSshKeyPath: unary((request: wire.MachineRequest) => ({ path: open(request).getSSHKeyPath() })),
    getSshUsername: unary((request: wire.MachineRequest) => ({ username: open(request).getSSHUsername() })),
  };
}

function wireFlag(flag: CreateFlag): wire.Flag {
  const { name, usage, envVar } = flag;
  switch (flag.kind) {
    case 'string':
      return { name, usage, envVar, default: { $case: 'stringValue', value: flag.value } };
    case 'int':
      return { name, usage, envVar, default: { $case: 'intValue', value: BigInt(flag.value) } };
    case 'bool':
      return { name, usage, envVar, default: { $case: 'boolValue', value: false } };
    case 'strings':
      return { name, usage, envVar, default: { $case: 'stringsValue', value: { values: [...flag.value] } } };
  }
}

function flagValue({ value }: wire.FlagValue): FlagValue {
  switch (value?.$case) {
    case undefined:
      return null;
    case 'intValue':
      return Number(value.value);
    case 'stringsValue':
      return value.value.values;
    case 'stringValue':
    case 'boolValue':
      return value.value;
  }
}
