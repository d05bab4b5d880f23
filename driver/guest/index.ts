export {
  type ClientCertificates,
  certificatePaths,
  ensureClientCertificates,
  issueServerCertificate,
} from './certificates.js';
export { bootedOnTime, mendGuestClock } from './clock.js';
export { type KeyPair, createKeyPair } from './key-pair.js';
export { type PublishedPort, watchPublishedPorts } from './published-ports.js';
export { provisionDocker, waitForDocker } from './provision.js';
export { diskSeed } from './seed.js';
export { mountShares } from './shares.js';
export { shellQuote } from './shell.js';
export { type ContactHints, type GuestAddress, type GuestSession, contactGuest } from './ssh-session.js';
