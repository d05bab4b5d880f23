#include "napi/switch_object.h"

#include <memory>
#include <string>
#include <utility>

#include "base/event_loop.h"
#include "napi/addon_data.h"
#include "napi/machine_spec.h"
#include "napi/session.h"
#include "napi/switch_spec.h"
#include "net/switch/user_switch.h"
#include "sandbox/seccomp.h"

namespace tshyve {
namespace {

/// A user-mode network and the thread that it lives on. Used on its session's thread.
class Held {
 public:
  Held() = default;
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  ~Held() { end(); }

  Result<void> make(net::UserSwitchSettings settings, const EventSink& sink) {
    TSHYVE_TRY(loop_, EventLoop::create("user-network"));
    loop_->start();
    return call<void>([&]() -> Result<void> {
      TSHYVE_TRY(network_,
                 net::UserSwitch::create(
                     *loop_, std::move(settings), [sink](std::string line) { sink(MachineLog{std::move(line)}); },
                     [sink](const std::string& mac, const std::string& address) {
                       sink(AddressAssigned{0, mac, address, 0});
                     }));
      // Every frame is some guest's, and libslirp takes them apart.
      return sandbox::confineThread(sandbox::Role::kSockets);
    });
  }
  void end() {
    if (loop_ == nullptr) return;
    loop_->runSync([this] { network_.reset(); });
    loop_.reset();
  }
  /// Runs a function on the network's thread.
  template <typename T>
  Result<T> call(const std::function<Result<T>()>& function) {
    Result<T> result = Error{ErrorCode::kState, "the network has ended"};
    loop_->runSync([&] { result = function(); });
    return result;
  }
  net::UserSwitch& network() { return *network_; }

 private:
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<net::UserSwitch> network_;
};

/// What a SwitchObject is made from.
struct Parts {
  std::shared_ptr<Session> session;
  std::shared_ptr<Held> held;
};

/// The JavaScript object of a user-mode network. All methods return promises; wrong arguments throw at once.
class SwitchObject : public Napi::ObjectWrap<SwitchObject> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "NativeSwitch",
                       {
                           InstanceMethod<&SwitchObject::addMachine>("addMachine"),
                           InstanceMethod<&SwitchObject::removeMachine>("removeMachine"),
                           InstanceMethod<&SwitchObject::addForward>("addForward"),
                           InstanceMethod<&SwitchObject::removeForward>("removeForward"),
                           InstanceMethod<&SwitchObject::close>("close"),
                       });
  }

  explicit SwitchObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    if (info.Length() == 1 && info[0].IsExternal()) {
      const Parts& parts = *info[0].As<Napi::External<Parts>>().Data();
      session_ = parts.session;
      held_ = parts.held;
    } else {
      Napi::TypeError::New(info.Env(), "networks are made by createSwitch").ThrowAsJavaScriptException();
    }
  }
  ~SwitchObject() override {
    // Collected without a close: the network goes as well.
    if (session_ != nullptr) session_->abandon();
  }

 private:
  /// Reads the first argument; throws when it is not what it should be.
  template <typename T>
  static std::optional<T> argument(const Napi::CallbackInfo& info, Result<T> (*read)(Napi::Value)) {
    auto value = read(info.Length() > 0 ? info[0] : info.Env().Undefined());
    if (value) return std::move(value).value();
    if (!info.Env().IsExceptionPending()) makeError(info.Env(), value.error()).ThrowAsJavaScriptException();
    return std::nullopt;
  }
  Napi::Value run(const Napi::CallbackInfo& info, std::function<Result<void>(net::UserSwitch&)> change) {
    return session_->run(info.Env(), [held = held_, change = std::move(change)]() -> Result<Session::Value> {
      TSHYVE_CHECK(held->call<void>([&] { return change(held->network()); }));
      return Session::Value{};
    });
  }

  Napi::Value addMachine(const Napi::CallbackInfo& info) {
    auto machine = argument(info, readSwitchMachine);
    if (!machine) return info.Env().Undefined();
    return run(info, [machine = *machine](net::UserSwitch& network) { return network.addMachine(machine); });
  }

  Napi::Value removeMachine(const Napi::CallbackInfo& info) {
    if (info.Length() < 1 || !info[0].IsString()) {
      Napi::TypeError::New(info.Env(), "mac must be a text").ThrowAsJavaScriptException();
      return info.Env().Undefined();
    }
    return run(info, [mac = info[0].As<Napi::String>().Utf8Value()](net::UserSwitch& network) {
      return network.removeMachine(mac);
    });
  }

  Napi::Value addForward(const Napi::CallbackInfo& info) {
    auto forward = argument(info, readForward);
    if (!forward) return info.Env().Undefined();
    return session_->run(info.Env(), [held = held_, forward = *forward]() -> Result<Session::Value> {
      TSHYVE_TRY(const std::uint16_t port,
                 held->call<std::uint16_t>([&] { return held->network().addForward(forward); }));
      return Session::Value{port};
    });
  }

  Napi::Value removeForward(const Napi::CallbackInfo& info) {
    auto forward = argument(info, readForward);
    if (!forward) return info.Env().Undefined();
    return run(info, [forward = *forward](net::UserSwitch& network) { return network.removeForward(forward); });
  }

  Napi::Value close(const Napi::CallbackInfo& info) { return session_->close(info.Env()); }

  std::shared_ptr<Session> session_;
  std::shared_ptr<Held> held_;
};

/// createSwitch(settings, onEvent): Promise<NativeSwitch>
Napi::Value createSwitch(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  auto settings = readSwitchSettings(info.Length() > 0 ? info[0] : env.Undefined());
  if (!settings) {
    if (!env.IsExceptionPending()) makeError(env, settings.error()).ThrowAsJavaScriptException();
    return env.Undefined();
  }
  if (info.Length() < 2 || !info[1].IsFunction()) {
    Napi::TypeError::New(env, "onEvent must be a function").ThrowAsJavaScriptException();
    return env.Undefined();
  }
  auto held = std::make_shared<Held>();
  auto maker = [held, settings = std::move(settings).value()](const EventSink& sink) {
    return held->make(settings, sink);
  };
  auto opened = [held](Napi::Env callEnv, std::shared_ptr<Session> session) -> Napi::Value {
    Parts parts{std::move(session), held};
    auto* const data = callEnv.GetInstanceData<AddonData>();
    return data->switchClass.New({Napi::External<Parts>::New(callEnv, &parts)});
  };
  return Session::open(
      env, "network", info[1].As<Napi::Function>(), std::move(maker), [held] { held->end(); }, std::move(opened));
}

}  // namespace

void defineSwitches(Napi::Env env, Napi::Object exports) {
  env.GetInstanceData<AddonData>()->switchClass = Napi::Persistent(SwitchObject::define(env));
  exports.Set("createSwitch", Napi::Function::New<createSwitch>(env, "createSwitch"));
}

}  // namespace tshyve
