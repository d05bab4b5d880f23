#include "napi/machine_object.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "napi/machine_spec.h"
#include "napi/session.h"

namespace tshyve {
namespace {

constexpr std::size_t kMaxPath = 4095;

struct AddonData {
  Napi::FunctionReference machineClass;
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
      session_ = *info[0].As<Napi::External<std::shared_ptr<Session>>>().Data();
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
    return session_->run(info.Env(), [method](std::unique_ptr<Machine>& machine) -> Result<Session::Value> {
      TSHYVE_CHECK(((*machine).*method)());
      return Session::Value{};
    });
  }
  Napi::Value start(const Napi::CallbackInfo& info) { return call(info, &Machine::start); }
  Napi::Value pause(const Napi::CallbackInfo& info) { return call(info, &Machine::pause); }
  Napi::Value resume(const Napi::CallbackInfo& info) { return call(info, &Machine::resume); }
  Napi::Value pressPowerButton(const Napi::CallbackInfo& info) { return call(info, &Machine::pressPowerButton); }

  Napi::Value stop(const Napi::CallbackInfo& info) {
    return session_->run(info.Env(), [](std::unique_ptr<Machine>& machine) -> Result<Session::Value> {
      machine->stop();
      return Session::Value{};
    });
  }

  Napi::Value save(const Napi::CallbackInfo& info) {
    auto folder = path(info, 0, "folder");
    if (!folder) return info.Env().Undefined();
    return session_->run(info.Env(), [folder = *folder](std::unique_ptr<Machine>& machine) -> Result<Session::Value> {
      TSHYVE_CHECK(machine->save(folder));
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
    return session_->run(info.Env(),
                         [copy = std::vector<std::byte>(bytes.begin(), bytes.end())](
                             std::unique_ptr<Machine>& machine) -> Result<Session::Value> {
                           TSHYVE_CHECK(machine->writeConsole(copy));
                           return Session::Value{};
                         });
  }

  Napi::Value addForward(const Napi::CallbackInfo& info) {
    const auto arguments = forward(info);
    if (!arguments) return info.Env().Undefined();
    return session_->run(info.Env(),
                         [arguments = *arguments](std::unique_ptr<Machine>& machine) -> Result<Session::Value> {
                           TSHYVE_TRY(const std::uint16_t port, machine->addForward(arguments.first, arguments.second));
                           return Session::Value{port};
                         });
  }

  Napi::Value removeForward(const Napi::CallbackInfo& info) {
    const auto arguments = forward(info);
    if (!arguments) return info.Env().Undefined();
    return session_->run(info.Env(),
                         [arguments = *arguments](std::unique_ptr<Machine>& machine) -> Result<Session::Value> {
                           TSHYVE_CHECK(machine->removeForward(arguments.first, arguments.second));
                           return Session::Value{};
                         });
  }

  Napi::Value statistics(const Napi::CallbackInfo& info) {
    return session_->run(info.Env(), [](std::unique_ptr<Machine>& machine) -> Result<Session::Value> {
      return Session::Value{machine->statistics()};
    });
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
  auto maker = [config = std::move(config).value(), snapshot = std::move(snapshot)](EventSink sink) {
    return snapshot ? Machine::restore(config, *snapshot, std::move(sink)) : Machine::create(config, std::move(sink));
  };
  auto opened = [](Napi::Env callEnv, std::shared_ptr<Session> session) -> Napi::Value {
    auto* const data = callEnv.GetInstanceData<AddonData>();
    return data->machineClass.New({Napi::External<std::shared_ptr<Session>>::New(callEnv, &session)});
  };
  return Session::open(env, info[callbackIndex].As<Napi::Function>(), std::move(maker), std::move(opened));
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
  auto data = std::make_unique<AddonData>();
  data->machineClass = Napi::Persistent(MachineObject::define(env));
  env.SetInstanceData(data.release());
  exports.Set("create", Napi::Function::New<create>(env, "create"));
  exports.Set("restore", Napi::Function::New<restore>(env, "restore"));
}

}  // namespace tshyve
