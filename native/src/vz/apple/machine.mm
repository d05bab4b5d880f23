#include "vz/apple/machine.h"

#include <fcntl.h>

#include "vz/apple/convert.h"

/// Hands the framework's messages on. The framework holds it weakly, the machine strongly.
@interface TshyveMachineDelegate : NSObject <VZVirtualMachineDelegate, VZVirtioSocketListenerDelegate>
- (instancetype)initWithObserver:(tshyve::vz::Observer*)observer;
/// After this the observer hears no more.
- (void)disconnect;
@end

@implementation TshyveMachineDelegate {
  tshyve::vz::Observer* _observer;
}

- (instancetype)initWithObserver:(tshyve::vz::Observer*)observer {
  self = [super init];
  if (self != nil) _observer = observer;
  return self;
}

- (void)disconnect {
  _observer = nullptr;
}

- (void)guestDidStopVirtualMachine:(VZVirtualMachine*)virtualMachine {
  (void)virtualMachine;
  if (_observer != nullptr) _observer->guestStopped();
}

- (void)virtualMachine:(VZVirtualMachine*)virtualMachine didStopWithError:(NSError*)error {
  (void)virtualMachine;
  if (_observer != nullptr) _observer->stoppedWithError(tshyve::vz::toString(error.localizedDescription));
}

- (void)virtualMachine:(VZVirtualMachine*)virtualMachine
                         networkDevice:(VZNetworkDevice*)networkDevice
    attachmentWasDisconnectedWithError:(NSError*)error {
  (void)virtualMachine;
  (void)networkDevice;
  if (_observer != nullptr) _observer->networkDisconnected(tshyve::vz::toString(error.localizedDescription));
}

- (BOOL)listener:(VZVirtioSocketListener*)listener
    shouldAcceptNewConnection:(VZVirtioSocketConnection*)connection
             fromSocketDevice:(VZVirtioSocketDevice*)socketDevice {
  (void)listener;
  (void)socketDevice;
  if (_observer == nullptr) return NO;
  // The connection closes its descriptor when it goes; ours lives on.
  tshyve::UniqueFd copy(::fcntl(connection.fileDescriptor, F_DUPFD_CLOEXEC, 3));
  if (!copy) return NO;
  return _observer->guestConnected(connection.destinationPort, std::move(copy)) ? YES : NO;
}

@end

namespace tshyve::vz {
namespace {

State toState(VZVirtualMachineState state) {
  if (@available(macOS 14.0, *)) {
    if (state == VZVirtualMachineStateSaving) return State::kSaving;
    if (state == VZVirtualMachineStateRestoring) return State::kRestoring;
  }
  switch (static_cast<NSInteger>(state)) {
    case VZVirtualMachineStateStopped:
      return State::kStopped;
    case VZVirtualMachineStateRunning:
      return State::kRunning;
    case VZVirtualMachineStatePaused:
      return State::kPaused;
    case VZVirtualMachineStateError:
      return State::kError;
    case VZVirtualMachineStateStarting:
      return State::kStarting;
    case VZVirtualMachineStatePausing:
      return State::kPausing;
    case VZVirtualMachineStateResuming:
      return State::kResuming;
    case VZVirtualMachineStateStopping:
      return State::kStopping;
    default:
      return State::kUnknown;
  }
}

/// A completion handler of the framework for a callback of ours.
void (^completion(std::string what, Done done))(NSError*) {
  return ^(NSError* error) {
    if (error == nil) {
      done({});
    } else {
      done(toError(what, error));
    }
  };
}

class AppleMachine final : public FrameworkMachine {
 public:
  AppleMachine(VZVirtualMachineConfiguration* configuration, const std::vector<std::uint32_t>& listenPorts,
               dispatch_queue_t queue, Observer& observer)
      : configuration_(configuration),
        delegate_([[TshyveMachineDelegate alloc] initWithObserver:&observer]),
        machine_([[VZVirtualMachine alloc] initWithConfiguration:configuration queue:queue]) {
    machine_.delegate = delegate_;
    VZVirtioSocketDevice* const sockets = socketDevice();
    if (sockets == nil || listenPorts.empty()) return;
    listener_ = [[VZVirtioSocketListener alloc] init];
    listener_.delegate = delegate_;
    for (const std::uint32_t port : listenPorts) [sockets setSocketListener:listener_ forPort:port];
  }
  AppleMachine(const AppleMachine&) = delete;
  AppleMachine& operator=(const AppleMachine&) = delete;
  ~AppleMachine() override {
    [delegate_ disconnect];
    machine_.delegate = nil;
  }

  [[nodiscard]] State state() const override { return toState(machine_.state); }

  void start(Done done) override {
    give("cannot start the machine", done, ^(void (^handler)(NSError*)) {
      [machine_ startWithCompletionHandler:handler];
    });
  }
  void pause(Done done) override {
    give("cannot pause the machine", done, ^(void (^handler)(NSError*)) {
      [machine_ pauseWithCompletionHandler:handler];
    });
  }
  void resume(Done done) override {
    give("cannot resume the machine", done, ^(void (^handler)(NSError*)) {
      [machine_ resumeWithCompletionHandler:handler];
    });
  }
  void stop(Done done) override {
    give("cannot end the machine", done, ^(void (^handler)(NSError*)) {
      [machine_ stopWithCompletionHandler:handler];
    });
  }

  Result<void> requestStop() override {
    const auto asked = guarded<bool>("cannot press the power button", [this]() -> Result<bool> {
      NSError* error = nil;
      if (![machine_ requestStopWithError:&error]) return toError("cannot press the power button", error);
      return true;
    });
    if (!asked) return asked.error();
    return {};
  }

  void save(const std::string& file, Done done) override {
#if defined(__arm64__)
    if (@available(macOS 14.0, *)) {
      NSError* error = nil;
      if (![configuration_ validateSaveRestoreSupportWithError:&error]) {
        done(toError("macOS cannot save this machine", error));
        return;
      }
      NSURL* const url = toFileURL(file);
      give("cannot save the machine", done, ^(void (^handler)(NSError*)) {
        [machine_ saveMachineStateToURL:url completionHandler:handler];
      });
      return;
    }
#endif
    done(Error{ErrorCode::kUnsupported, "machines cannot be saved here, in " + file});
  }

  void restore(const std::string& file, Done done) override {
#if defined(__arm64__)
    if (@available(macOS 14.0, *)) {
      NSURL* const url = toFileURL(file);
      give("cannot restore the machine", done, ^(void (^handler)(NSError*)) {
        [machine_ restoreMachineStateFromURL:url completionHandler:handler];
      });
      return;
    }
#endif
    done(Error{ErrorCode::kUnsupported, "machines cannot be restored here, from " + file});
  }

  void connect(std::uint32_t port, std::function<void(Result<UniqueFd>)> done) override {
    VZVirtioSocketDevice* const sockets = socketDevice();
    if (sockets == nil) {
      done(Error{ErrorCode::kState, "the machine has no sockets"});
      return;
    }
    [sockets connectToPort:port
         completionHandler:^(VZVirtioSocketConnection* connection, NSError* error) {
           if (connection == nil) {
             done(toError("the guest does not listen at port " + std::to_string(port), error));
             return;
           }
           UniqueFd copy(::fcntl(connection.fileDescriptor, F_DUPFD_CLOEXEC, 3));
           if (!copy) {
             done(Error::fromErrno("cannot keep a connection to the guest"));
             return;
           }
           done(std::move(copy));
         }];
  }

  [[nodiscard]] std::string identifier() const override {
    if (@available(macOS 13.0, *)) {
      VZPlatformConfiguration* const platform = configuration_.platform;
      if ([platform isKindOfClass:[VZGenericPlatformConfiguration class]]) {
        NSData* const data =
            static_cast<VZGenericPlatformConfiguration*>(platform).machineIdentifier.dataRepresentation;
        return {static_cast<const char*>(data.bytes), data.length};
      }
    }
    return {};
  }

  [[nodiscard]] std::uint64_t balloonBytes() const override {
    VZMemoryBalloonDevice* const device = machine_.memoryBalloonDevices.firstObject;
    if (![device isKindOfClass:[VZVirtioTraditionalMemoryBalloonDevice class]]) return 0;
    const std::uint64_t target =
        static_cast<VZVirtioTraditionalMemoryBalloonDevice*>(device).targetVirtualMachineMemorySize;
    const std::uint64_t all = configuration_.memorySize;
    return target < all ? all - target : 0;
  }

 private:
  /// Makes a call that ends with a completion handler; exactly one answer comes.
  static void give(const std::string& what, const Done& done, void (^call)(void (^handler)(NSError*))) {
    const auto made = guarded<bool>(what, [&]() -> Result<bool> {
      call(completion(what, done));
      return true;
    });
    if (!made) done(made.error());
  }

  [[nodiscard]] VZVirtioSocketDevice* socketDevice() const {
    VZSocketDevice* const device = machine_.socketDevices.firstObject;
    if (![device isKindOfClass:[VZVirtioSocketDevice class]]) return nil;
    return static_cast<VZVirtioSocketDevice*>(device);
  }

  VZVirtualMachineConfiguration* const configuration_;
  TshyveMachineDelegate* const delegate_;
  VZVirtualMachine* const machine_;
  VZVirtioSocketListener* listener_ = nil;
};

}  // namespace

std::unique_ptr<FrameworkMachine> makeFrameworkMachine(VZVirtualMachineConfiguration* configuration,
                                                       const std::vector<std::uint32_t>& listenPorts,
                                                       dispatch_queue_t queue, Observer& observer) {
  return std::make_unique<AppleMachine>(configuration, listenPorts, queue, observer);
}

}  // namespace tshyve::vz
