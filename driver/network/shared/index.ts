export { type Permitted, accountId } from './accounts.js';
export { type NetworkReport, inspectNetwork, listNetworks, permit, removeNetwork, requireUp } from './control.js';
export { type NetworkDefinition, checkNetworkName, networkPlace, readDefinition, tapName } from './definition.js';
export { NetworkKeeper } from './keeper.js';
export { installUnit, notifySystemd, removeUnit, startUnit, unitName } from './service-unit.js';
export { contains } from './subnet.js';
export { type TapRequest, attachTap, detachTap } from './taps.js';
