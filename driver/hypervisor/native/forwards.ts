import { codeOf } from '../../base/index.js';
import type { PortBinder } from '../forwards.js';
import type { PortForward } from '../vm-spec.js';
import type { NativeForward, NativeMachine } from './addon.js';
import { nativeError } from './errors.js';

/** The one network interface that VmSpec has. */
const NIC = 0;

/** Binds ports by the core's own user network. @param current the machine that runs now */
export function nativePorts(current: () => NativeMachine): PortBinder {
  return {
    bind: async (forward) => {
      try {
        return await current().addForward(NIC, nativeForward(forward));
      } catch (error) {
        throw nativeError('The native core', error);
      }
    },
    unbind: async (forward) => {
      try {
        await current().removeForward(NIC, nativeForward(forward));
      } catch (error) {
        // The guest restarts this moment: what it had is gone already.
        if (codeOf(error) !== 'not-found') throw nativeError('The native core', error);
      }
    },
  };
}

export function nativeForward({ hostAddress, hostPort, guestPort, protocol }: PortForward): NativeForward {
  return { hostAddress, hostPort, guestPort, udp: protocol === 'udp' };
}
