export { type NetworkReport, inspectNetwork, listNetworks, removeNetwork, requireUp } from './control.js';
export { type NetworkDefinition, checkNetworkName, networkPlace, readDefinition, tapName } from './definition.js';
export { NetworkKeeper } from './keeper.js';
export { contains } from './subnet.js';
export { type TapRequest, attachTap, detachTap } from './taps.js';
