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
  type Permitted,
  type TapRequest,
  accountId,
  attachTap,
  checkNetworkName,
  contains,
  detachTap,
  inspectNetwork,
  installUnit,
  listNetworks,
  networkPlace,
  notifySystemd,
  permit,
  readDefinition,
  removeNetwork,
  removeUnit,
  requireUp,
  startUnit,
  tapName,
  unitName,
} from './shared/index.js';
