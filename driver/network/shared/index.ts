export { type Permitted, accountId } from './accounts.js';
export { type NetworkReport, inspectNetwork, listNetworks, permit, removeNetwork, requireUp } from './control.js';
export {
  type NetworkDefinition,
  checkNetworkName,
  networkPlace,
  ownNetworksFolder,
  readDefinition,
  tapName,
} from './definition.js';
export { NetworkKeeper } from './keeper.js';
export { namespaceToEnter } from './namespace.js';
export { installUnit, notifySystemd, removeUnit, startUnit, unitName } from './service-unit.js';
export { contains } from './subnet.js';
export { type TapRequest, attachTap, detachTap, requireTun } from './taps.js';
