export { claimAddress, releaseAddress } from './address.js';
export { macFor, uuidFor } from './identity.js';
export { dockerPorts, sshPorts } from './ports.js';
