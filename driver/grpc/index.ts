export { HealthService } from './generated/health.js';
export { healthMethods, streaming, unary } from './handlers.js';
export { fromServiceError, kindTrailer } from './status.js';
