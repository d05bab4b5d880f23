#include "napi/machine_object.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "napi/addon_data.h"
#include "napi/machine_spec.h"
#include "napi/session.h"

namespace tshyve {
namespace {

constexpr std::size_t kMaxPath = 4095;

/// The machine, on its session's thread.
struct Held {
  std::unique_ptr<Machine> machine;
};
/// What a MachineObject is made from.
struct Parts {
  std::shared_ptr<Session> session;
  std::shared_ptr<Held> held;
};

/// Reads a path; throws a TypeError when there is none.
std::optional<std::string> path(const Napi::CallbackInfo& info, std::size_t index, const char* name) {
  if (info.Length() > index && info[index].IsString()) {
    auto value = info[index].As<Napi::String>().Utf8Value();
    if (!value.empty() && value.size() <= kMaxPath && value.find('\0') == std::string::npos) return value;
  }
  Napi::TypeError::New(info.Env(), std::string(name) + " must be a path").ThrowAsJavaScriptException();
  return std::nullopt;
}

/// The JavaScript object of a machine. All methods return promises; wrong arguments throw at once.
class MachineObject : public Napi::ObjectWrap<MachineObject> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "NativeMachine",
                       {
                           InstanceMethod<&MachineObject::start>("start"),
                           InstanceMethod<&MachineObject::pause>("pause"),
                           InstanceMethod<&MachineObject::resume>("resume"),
                           InstanceMethod<&MachineObject::pressPowerButton>("pressPowerButton"),
                           InstanceMethod<&MachineObject::stop>("stop"),
                           InstanceMethod<&MachineObject::save>("save"),
                           InstanceMethod<&MachineObject::writeConsole>("writeConsole"),
                           InstanceMethod<&MachineObject::addForward>("addForward"),
                           InstanceMethod<&MachineObject::removeForward>("removeForward"),
                           InstanceMethod<&MachineObject::statistics>("statistics"),
                           InstanceMethod<&MachineObject::close>("close"),
                       });
  }

  explicit MachineObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    if (info.Length() == 1 && info[0].IsExternal()) {
      const Parts& parts = *info[0].As<Napi::External<Parts>>().Data();
      session_ = parts.session;
      held_ = parts.held;
    } else {
      Napi::TypeError::New(info.Env(), "machines are made by create and restore").ThrowAsJavaScriptException();
    }
  }
  ~MachineObject() override {
    // Collected without a close: the machine goes as well.
    if (session_ != nullptr) session_->abandon();
  }

 private:
  Napi::Value call(const Napi::CallbackInfo& info, Result<void> (Machine::*method)()) {
    return session_->run(info.Env(), [held = held_, method]() -> Result<Session::Value> {
      TSHYVE_CHECK(((*held->machine).*method)());
      return Session::Value{};
    });
  }
  Napi::Value start(const Napi::CallbackInfo& info) { return call(info, &Machine::start); }
  Napi::Value pause(const Napi::CallbackInfo& info) { return call(info, &Machine::pause); }
  Napi::Value resume(const Napi::CallbackInfo& info) { return call(info, &Machine::resume); }
  Napi::Value pressPowerButton(const Napi::CallbackInfo& info) { return call(info, &Machine::pressPowerButton); }

  Napi::Value stop(const Napi::CallbackInfo& info) {
    return session_->run(info.Env(), [held = held_]() -> Result<Session::Value> {
      held->machine->stop();
      return Session::Value{};
    });
  }

  Napi::Value save(const Napi::CallbackInfo& info) {
    auto folder = path(info, 0, "folder");
    if (!folder) return info.Env().Undefined();
    return session_->run(info.Env(), [held = held_, folder = *folder]() -> Result<Session::Value> {
      TSHYVE_CHECK(held->machine->save(folder));
      return Session::Value{};
    });
  }

  Napi::Value writeConsole(const Napi::CallbackInfo& info) {
    if (info.Length() < 1 || !info[0].IsTypedArray() ||
        info[0].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
      Napi::TypeError::New(info.Env(), "bytes must be a Uint8Array").ThrowAsJavaScriptException();
      return info.Env().Undefined();
    }
    const auto array = info[0].As<Napi::Uint8Array>();
    const auto bytes = std::as_bytes(std::span(array.Data(), array.ByteLength()));
    return session_->run(
        info.Env(),
        [held = held_, copy = std::vector<std::byte>(bytes.begin(), bytes.end())]() -> Result<Session::Value> {
          TSHYVE_CHECK(held->machine->writeConsole(copy));
          return Session::Value{};
        });
  }

  Napi::Value addForward(const Napi::CallbackInfo& info) {
    const auto arguments = forward(info);
    if (!arguments) return info.Env().Undefined();
    return session_->run(info.Env(), [held = held_, arguments = *arguments]() -> Result<Session::Value> {
      TSHYVE_TRY(const std::uint16_t port, held->machine->addForward(arguments.first, arguments.second));
      return Session::Value{port};
    });
  }

  Napi::Value removeForward(const Napi::CallbackInfo& info) {
    const auto arguments = forward(info);
    if (!arguments) return info.Env().Undefined();
    return session_->run(info.Env(), [held = held_, arguments = *arguments]() -> Result<Session::Value> {
      TSHYVE_CHECK(held->machine->removeForward(arguments.first, arguments.second));
      return Session::Value{};
    });
  }

  Napi::Value statistics(const Napi::CallbackInfo& info) {
    return session_->run(
        info.Env(), [held = held_]() -> Result<Session::Value> { return Session::Value{held->machine->statistics()}; });
  }

  Napi::Value close(const Napi::CallbackInfo& info) { return session_->close(info.Env()); }

  static std::optional<std::pair<std::uint32_t, ForwardConfig>> forward(const Napi::CallbackInfo& info) {
    const double nic = info.Length() > 0 && info[0].IsNumber() ? info[0].As<Napi::Number>().DoubleValue() : -1;
    if (!(nic >= 0 && nic < 32)) {
      Napi::TypeError::New(info.Env(), "nic must be the index of a network interface").ThrowAsJavaScriptException();
      return std::nullopt;
    }
    const Napi::Value given = info.Length() > 1 ? info[1] : info.Env().Undefined();
    auto read = readForward(given);
    if (!read) {
      if (!info.Env().IsExceptionPending()) makeError(info.Env(), read.error()).ThrowAsJavaScriptException();
      return std::nullopt;
    }
    return std::pair(static_cast<std::uint32_t>(nic), std::move(read).value());
  }

  std::shared_ptr<Session> session_;
  std::shared_ptr<Held> held_;
};

Napi::Value openMachine(const Napi::CallbackInfo& info, std::optional<std::string> snapshot,
                        std::size_t callbackIndex) {
  const Napi::Env env = info.Env();
  auto config = readMachineSpec(info.Length() > 0 ? info[0] : env.Undefined());
  if (!config) {
    if (!env.IsExceptionPending()) makeError(env, config.error()).ThrowAsJavaScriptException();
    return env.Undefined();
  }
  if (info.Length() <= callbackIndex || !info[callbackIndex].IsFunction()) {
    Napi::TypeError::New(env, "onEvent must be a function").ThrowAsJavaScriptException();
    return env.Undefined();
  }
  auto held = std::make_shared<Held>();
  auto maker = [held, config = std::move(config).value(),
                snapshot = std::move(snapshot)](EventSink sink) -> Result<void> {
    TSHYVE_TRY(held->machine, snapshot ? Machine::restore(config, *snapshot, std::move(sink))
                                       : Machine::create(config, std::move(sink)));
    return {};
  };
  auto opened = [held](Napi::Env callEnv, std::shared_ptr<Session> session) -> Napi::Value {
    Parts parts{std::move(session), held};
    auto* const data = callEnv.GetInstanceData<AddonData>();
    return data->machineClass.New({Napi::External<Parts>::New(callEnv, &parts)});
  };
  return Session::open(
      env, "machine", info[callbackIndex].As<Napi::Function>(), std::move(maker), [held] { held->machine.reset(); },
      std::move(opened));
}

/// create(spec, onEvent): Promise<NativeMachine>
Napi::Value create(const Napi::CallbackInfo& info) { return openMachine(info, std::nullopt, 1); }

/// restore(spec, folder, onEvent): Promise<NativeMachine>
Napi::Value restore(const Napi::CallbackInfo& info) {
  auto folder = path(info, 1, "folder");
  if (!folder) return info.Env().Undefined();
  return openMachine(info, std::move(folder), 2);
}

}  // namespace

void defineMachines(Napi::Env env, Napi::Object exports) {
  env.GetInstanceData<AddonData>()->machineClass = Napi::Persistent(MachineObject::define(env));
  exports.Set("create", Napi::Function::New<create>(env, "create"));
  exports.Set("restore", Napi::Function::New<restore>(env, "restore"));
}

}  // namespace tshyve
