export { type Contact, contact } from './contact.js';
export { claimAddress, releaseAddress } from './address.js';
export { macFor, uuidFor } from './identity.js';
export { dockerPorts, sshPorts } from './ports.js';
export {
  type DiscoverOptions,
  type Lease,
  type LeaseFile,
  type Neighbour,
  belongsTo,
  discoverAddress,
  parseDnsmasqLeases,
  readBaseline,
} from './leases/index.js';
export {
  type Bridge,
  bootpdLeases,
  bridges,
  diagnose,
  explainFindings,
  isOnBridge,
  readMacFacts,
  readNeighbours,
} from './macos/index.js';
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
  namespaceToEnter,
  networkPlace,
  notifySystemd,
  ownNetworksFolder,
  permit,
  readDefinition,
  removeNetwork,
  removeUnit,
  requireTun,
  requireUp,
  startUnit,
  tapName,
  unitName,
} from './shared/index.js';
