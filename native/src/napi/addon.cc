#include <napi.h>

#include <memory>

#include "machine/host_probe.h"
#include "napi/addon_data.h"
#include "napi/machine_object.h"
#ifndef __APPLE__
#include "napi/switch_object.h"
#endif

namespace tshyve {
namespace {

/// Changes whenever exports change their meaning; the loader refuses an addon of another number.
constexpr int kInterfaceVersion = 3;

/// probe(): Promise<NativeProbe>, computed on a thread of libuv's pool.
class ProbeWorker : public Napi::AsyncWorker {
 public:
  explicit ProbeWorker(Napi::Env env) : AsyncWorker(env), deferred_(Napi::Promise::Deferred::New(env)) {}
  [[nodiscard]] Napi::Value promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override { result_ = probeHost(); }
  void OnOK() override {
    auto object = Napi::Object::New(Env());
    object.Set("supported", result_.supported);
    object.Set("permitted", result_.permitted);
    object.Set("hardwareSpeed", result_.hardwareSpeed);
    object.Set("instructionsPerSecond", result_.instructionsPerSecond);
    object.Set("reason", result_.reason);
    object.Set("milliseconds", static_cast<double>(result_.duration.count()) / 1000);
    deferred_.Resolve(object);
  }

 private:
  Napi::Promise::Deferred deferred_;
  HostProbe result_;
};

Napi::Value probe(const Napi::CallbackInfo& info) {
  // Deletes itself when it is done.
  auto* const worker = new ProbeWorker(info.Env());
  auto promise = worker->promise();
  worker->Queue();
  return promise;
}

Napi::Object initialise(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(std::make_unique<AddonData>().release());
  defineMachines(env, exports);
#ifndef __APPLE__
  // The switch waits by epoll.
  defineSwitches(env, exports);
#endif
  exports.Set("interfaceVersion", Napi::Number::New(env, kInterfaceVersion));
  exports.Set("probe", Napi::Function::New<probe>(env, "probe"));
  return exports;
}

NODE_API_MODULE(tshyve, initialise)

}  // namespace
}  // namespace tshyve
