export { type Bridge, bridges, isOnBridge } from './bridges.js';
export { type Finding, type MacFacts, diagnose, explainFindings } from './diagnosis.js';
export { bootpdLeases, readMacFacts, readNeighbours } from './facts.js';
export { type Firewall, parseDefaultInterface, parseFirewall } from './firewall.js';
