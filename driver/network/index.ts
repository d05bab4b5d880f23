export { claimAddress, releaseAddress } from './address.js';
export { macFor, uuidFor } from './identity.js';
export { dockerPorts, sshPorts } from './ports.js';
export {
  NetworkKeeper,
  type NetworkReport,
  type TapRequest,
  attachTap,
  checkNetworkName,
  contains,
  detachTap,
  inspectNetwork,
  listNetworks,
  networkPlace,
  readDefinition,
  removeNetwork,
} from './shared/index.js';
