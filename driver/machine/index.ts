import type { DriverFactory } from './driver.js';
import { TshyveDriver } from './tshyve-driver.js';

export type { CreateFlag, Driver, DriverFactory, FlagValue, MachineState, Operation } from './driver.js';
export type { AddedPort } from './record.js';
export { TshyveDriver } from './tshyve-driver.js';

/** The real driver; see `DriverFactory`. */
export const createDriver: DriverFactory = (machineName, storePath) => new TshyveDriver(machineName, storePath);
export { MachineStore } from './store.js';
