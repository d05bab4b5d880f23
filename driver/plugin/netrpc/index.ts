export { type Call, RpcConnection, emptyStruct, emptyValue } from './connection.js';
