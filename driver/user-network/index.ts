export { type UserNetworkReport, listUserNetworks } from './list.js';
export { Membership } from './membership.js';
export { portSockets } from './place.js';
