export { claimAddress, releaseAddress } from './address.js';
export { macFor, uuidFor } from './identity.js';
export { dockerPorts, sshPorts } from './ports.js';
export {
  type DiscoverOptions,
  type Lease,
  type LeaseFile,
  discoverAddress,
  parseDnsmasqLeases,
  readBaseline,
} from './leases/index.js';
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
  requireUp,
  tapName,
} from './shared/index.js';
