#pragma once

#include <napi.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"
#include "machine/event_queue.h"
#include "machine/machine.h"

namespace tshyve {

/// One machine or network of a JavaScript environment, its subject: a thread of its own makes every call of the
/// subject, one after the other, so that nothing blocks Node's loop; results and events come back through one
/// thread-safe function. Lives until it is closed; an environment that goes away (end of a Node worker, process end)
/// ends the subject first.
class Session : public std::enable_shared_from_this<Session> {
 public:
  using Value = std::variant<std::monostate, std::uint16_t, MachineStatistics>;
  /// Runs on the session's thread, once the subject is there.
  using Job = std::function<Result<Value>()>;
  /// Makes the subject, on the session's thread. @param sink takes its events
  using Maker = std::function<Result<void>(EventSink sink)>;
  /// Ends the subject, on the session's thread; called also when none was made.
  using Ender = std::function<void()>;

  /// Starts a session whose first job makes the subject.
  /// @param subject what it is, for messages: "machine"
  /// @param onEvent the JavaScript function that takes events
  /// @param opened makes what the promise resolves with, on the JavaScript thread
  /// @return the promise
  static Napi::Value open(Napi::Env env, const char* subject, Napi::Function onEvent, Maker maker, Ender ender,
                          std::function<Napi::Value(Napi::Env, std::shared_ptr<Session>)> opened);

  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session();

  /// JavaScript thread: runs a job after those before it. @return a promise of its value
  Napi::Value run(Napi::Env env, Job job);
  /// JavaScript thread: ends the subject; repeatable. @return a promise that resolves when all of it is gone
  Napi::Value close(Napi::Env env);
  /// JavaScript thread: as `close`, when nobody is there to hear of it.
  void abandon();

 private:
  struct Pending {
    Napi::Promise::Deferred deferred;
    std::function<Napi::Value(Napi::Env, std::shared_ptr<Session>)> convert;
  };
  struct Done {
    std::uint64_t id;
    Result<Value> result;
  };

  Session(const char* subject, Napi::Function onEvent, Ender ender)
      : subject_(subject), ender_(std::move(ender)), onEvent_(Napi::Persistent(onEvent)) {}
  std::uint64_t post(Job job);
  void work();
  void finish(std::uint64_t id, Result<Value> result);
  void wake();
  void deliver(Napi::Env env);
  void settle(Napi::Env env, Done done);
  void release();
  void join();
  static void callJavaScript(napi_env env, napi_value callback, void* context, void* data);
  static void endWithEnvironment(void* session);
  static void finalize(napi_env env, void* data, void* hint);

  const std::string subject_;
  const Ender ender_;

  // JavaScript thread only.
  Napi::FunctionReference onEvent_;
  std::map<std::uint64_t, Pending> pending_;
  std::vector<Napi::Promise::Deferred> closing_;
  napi_env env_ = nullptr;
  bool released_ = false;
  /// Keeps the session alive until its thread has ended.
  std::shared_ptr<Session> self_;

  EventQueue events_;
  std::thread thread_;
  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  napi_threadsafe_function notify_ = nullptr;
  bool notified_ = false;
  bool closed_ = false;  ///< no further job; the thread ends after those it has
  bool ended_ = false;   ///< the subject is gone
  std::uint64_t nextId_ = 1;
  std::deque<std::pair<std::uint64_t, Job>> jobs_;
  std::vector<Done> done_;

  // The session's thread only.
  bool made_ = false;
};

/// A JavaScript Error whose `code` tells the kind, e.g. `no-space`.
Napi::Error makeError(Napi::Env env, const Error& error);

}  // namespace tshyve
