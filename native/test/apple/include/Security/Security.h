#pragma once

// The entitlements of a process (developer.apple.com/documentation/security/sectask).

#include <Foundation/Foundation.h>

#pragma clang assume_nonnull begin
extern "C" {
typedef struct __SecTask* SecTaskRef;
SecTaskRef _Nullable SecTaskCreateFromSelf(CFAllocatorRef _Nullable allocator) TSHYVE_SINCE(10.7)
    __attribute__((cf_returns_retained));
CFTypeRef _Nullable SecTaskCopyValueForEntitlement(SecTaskRef task, CFStringRef entitlement,
                                                   CFErrorRef _Nullable* _Nullable error) TSHYVE_SINCE(10.7)
    __attribute__((cf_returns_retained));
}
#pragma clang assume_nonnull end
