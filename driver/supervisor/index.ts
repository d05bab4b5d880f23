export { SupervisorClient, findSupervisor, lastExit, launchSupervisor } from './client.js';
export { supervisorPlace } from './place.js';
export { type MachineReference, quickStatus } from './status.js';
export type { LaunchRequest, MachineEvent, SupervisorStatus } from './types.js';
