export { type NetworkReport, inspectNetwork, listNetworks, removeNetwork } from './control.js';
export { type NetworkDefinition, checkNetworkName, networkPlace, readDefinition } from './definition.js';
export { NetworkKeeper } from './keeper.js';
export { contains } from './subnet.js';
export { type TapRequest, attachTap, detachTap } from './taps.js';
