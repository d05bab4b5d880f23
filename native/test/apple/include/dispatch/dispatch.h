#pragma once

// Grand Central Dispatch: serial queues, and work on them (developer.apple.com/documentation/dispatch).

#ifdef __OBJC__
@protocol OS_dispatch_queue;
@protocol OS_dispatch_queue_attr;
@class NSObject;
typedef NSObject<OS_dispatch_queue>* dispatch_queue_t;
typedef NSObject<OS_dispatch_queue_attr>* dispatch_queue_attr_t;
#endif
typedef void (^dispatch_block_t)(void);

#define DISPATCH_QUEUE_SERIAL nil

#ifdef __cplusplus
extern "C" {
#endif
__attribute__((ns_returns_retained))
dispatch_queue_t _Nonnull dispatch_queue_create(const char* _Nullable label,
                                                dispatch_queue_attr_t _Nullable attributes);
void dispatch_async(dispatch_queue_t _Nonnull queue, dispatch_block_t _Nonnull work);
#ifdef __cplusplus
}
#endif
