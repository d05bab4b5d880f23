#include "napi/session.h"

#include <string>
#include <utility>

namespace tshyve {
namespace {

const char* codeName(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return "invalid-argument";
    case ErrorCode::kUnsupported:
      return "unsupported";
    case ErrorCode::kPermission:
      return "permission";
    case ErrorCode::kNotFound:
      return "not-found";
    case ErrorCode::kBusy:
      return "busy";
    case ErrorCode::kNoSpace:
      return "no-space";
    case ErrorCode::kHost:
      return "host";
    case ErrorCode::kGuest:
      return "guest";
    case ErrorCode::kCorrupt:
      return "corrupt";
    case ErrorCode::kState:
      return "state";
  }
  return "host";
}

const char* reasonName(ExitReason reason) {
  switch (reason) {
    case ExitReason::kShutdown:
      return "shutdown";
    case ExitReason::kReset:
      return "reset";
    case ExitReason::kKilled:
      return "killed";
    case ExitReason::kCrashed:
      return "crashed";
  }
  return "crashed";
}

Napi::Object toJavaScript(Napi::Env env, MachineEvent event) {
  auto object = Napi::Object::New(env);
  if (const auto* console = std::get_if<ConsoleOutput>(&event)) {
    object.Set("type", "console");
    object.Set("bytes", Napi::Buffer<char>::Copy(env, console->bytes.data(), console->bytes.size()));
  } else if (const auto* address = std::get_if<AddressAssigned>(&event)) {
    object.Set("type", "address");
    object.Set("nic", Napi::Number::New(env, address->nic));
    object.Set("mac", address->mac);
    object.Set("address", address->address);
    object.Set("leaseSeconds", Napi::Number::New(env, address->leaseSeconds));
  } else if (const auto* link = std::get_if<LinkChanged>(&event)) {
    object.Set("type", "link");
    object.Set("nic", Napi::Number::New(env, link->nic));
    object.Set("up", link->up);
  } else if (const auto* exited = std::get_if<MachineExited>(&event)) {
    object.Set("type", "exited");
    object.Set("reason", reasonName(exited->reason));
    object.Set("detail", exited->detail);
  } else if (const auto* log = std::get_if<MachineLog>(&event)) {
    object.Set("type", "log");
    object.Set("line", log->line);
  }
  return object;
}

Napi::Value toJavaScript(Napi::Env env, const Session::Value& value) {
  if (const auto* port = std::get_if<std::uint16_t>(&value)) return Napi::Number::New(env, *port);
  if (const auto* statistics = std::get_if<MachineStatistics>(&value)) {
    auto object = Napi::Object::New(env);
    object.Set("exits", Napi::Number::New(env, static_cast<double>(statistics->exits)));
    object.Set("balloonBytes", Napi::Number::New(env, static_cast<double>(statistics->balloonBytes)));
    return object;
  }
  return env.Undefined();
}

}  // namespace

Napi::Error makeError(Napi::Env env, const Error& error) {
  auto made = Napi::Error::New(env, error.message);
  made.Set("code", codeName(error.code));
  return made;
}

Napi::Value Session::open(Napi::Env env, const char* subject, Napi::Function onEvent, Maker maker, Ender ender,
                          std::function<Napi::Value(Napi::Env, std::shared_ptr<Session>)> opened) {
  std::shared_ptr<Session> session(new Session(subject, onEvent, std::move(ender)));
  session->env_ = env;
  const napi_value name = Napi::String::New(env, std::string("tshyve ") + subject);
  // One call is on its way at most (see `wake`), so its queue needs no bound.
  napi_status status = napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, session.get(), finalize,
                                                       session.get(), callJavaScript, &session->notify_);
  auto deferred = Napi::Promise::Deferred::New(env);
  if (status != napi_ok) {
    deferred.Reject(makeError(env, {ErrorCode::kHost, "Node refused a thread-safe function"}).Value());
    return deferred.Promise();
  }
  session->self_ = session;
  // After the thread-safe function's own hook, so that it runs before that.
  napi_add_env_cleanup_hook(env, endWithEnvironment, session.get());
  // The thread outlives no session: `finalize` and `endWithEnvironment` join it.
  Session* const raw = session.get();
  const auto id = session->post([raw, maker = std::move(maker)]() -> Result<Value> {
    TSHYVE_CHECK(maker([raw](MachineEvent event) {
      if (raw->events_.push(std::move(event))) raw->wake();
    }));
    raw->made_ = true;
    return Value{};
  });
  session->pending_.emplace(id, Pending{deferred, std::move(opened)});
  session->thread_ = std::thread([raw] { raw->work(); });
  return deferred.Promise();
}

Session::~Session() { join(); }

std::uint64_t Session::post(Job job) {
  const std::lock_guard lock(mutex_);
  const auto id = nextId_++;
  jobs_.emplace_back(id, std::move(job));
  changed_.notify_one();
  return id;
}

Napi::Value Session::run(Napi::Env env, Job job) {
  auto deferred = Napi::Promise::Deferred::New(env);
  bool closed = false;
  {
    const std::lock_guard lock(mutex_);
    closed = closed_;
  }
  if (closed) {
    deferred.Reject(makeError(env, {ErrorCode::kState, "the " + subject_ + " is closed"}).Value());
  } else {
    pending_.emplace(post(std::move(job)), Pending{deferred, nullptr});
  }
  return deferred.Promise();
}

Napi::Value Session::close(Napi::Env env) {
  auto deferred = Napi::Promise::Deferred::New(env);
  const auto promise = deferred.Promise();
  bool ended = false;
  {
    const std::lock_guard lock(mutex_);
    ended = ended_ && done_.empty();
    closed_ = true;
    changed_.notify_one();
  }
  if (ended || released_) {
    deferred.Resolve(env.Undefined());
  } else {
    closing_.push_back(deferred);
  }
  return promise;
}

void Session::abandon() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  changed_.notify_one();
}

void Session::work() {
  for (;;) {
    std::pair<std::uint64_t, Job> job;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return closed_ || !jobs_.empty(); });
      if (jobs_.empty()) break;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    if (job.first != 1 && !made_) {
      finish(job.first, Error{ErrorCode::kState, "the " + subject_ + " could not be made"});
    } else {
      finish(job.first, job.second());
    }
  }
  ender_();
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  wake();
}

void Session::finish(std::uint64_t id, Result<Value> result) {
  {
    const std::lock_guard lock(mutex_);
    done_.push_back({id, std::move(result)});
  }
  wake();
}

void Session::wake() {
  const std::lock_guard lock(mutex_);
  if (notify_ == nullptr || notified_) return;
  notified_ = napi_call_threadsafe_function(notify_, nullptr, napi_tsfn_nonblocking) == napi_ok;
}

void Session::callJavaScript(napi_env env, napi_value /*callback*/, void* context, void* /*data*/) {
  // Without an environment Node is going down and only drains its queue.
  if (env != nullptr) static_cast<Session*>(context)->deliver(Napi::Env(env));
}

void Session::deliver(Napi::Env env) {
  if (released_) return;
  const auto keep = self_;
  const Napi::HandleScope scope(env);
  std::vector<Done> done;
  bool ended = false;
  {
    const std::lock_guard lock(mutex_);
    notified_ = false;
    done.swap(done_);
    ended = ended_;
  }
  // An event that caused a job's result comes before it.
  for (auto& event : events_.take()) {
    const Napi::HandleScope eventScope(env);
    onEvent_.Call({toJavaScript(env, std::move(event))});
    // Thrown by our own TypeScript: nobody else can be told.
    if (env.IsExceptionPending()) napi_fatal_exception(env, env.GetAndClearPendingException().Value());
  }
  for (auto& result : done) settle(env, std::move(result));
  if (!ended) return;
  for (auto& deferred : closing_) deferred.Resolve(env.Undefined());
  closing_.clear();
  release();
}

void Session::settle(Napi::Env env, Done done) {
  const Napi::HandleScope scope(env);
  const auto found = pending_.find(done.id);
  if (found == pending_.end()) return;
  Pending pending = std::move(found->second);
  pending_.erase(found);
  if (!done.result) {
    pending.deferred.Reject(makeError(env, done.result.error()).Value());
    // What could not be made needs no session.
    if (pending.convert != nullptr) abandon();
  } else if (pending.convert != nullptr) {
    pending.deferred.Resolve(pending.convert(env, shared_from_this()));
  } else {
    pending.deferred.Resolve(toJavaScript(env, *done.result));
  }
}

void Session::release() {
  released_ = true;
  napi_threadsafe_function notify = nullptr;
  {
    const std::lock_guard lock(mutex_);
    std::swap(notify, notify_);
  }
  if (notify != nullptr) napi_release_threadsafe_function(notify, napi_tsfn_release);
}

void Session::join() {
  if (thread_.joinable()) thread_.join();
}

void Session::finalize(napi_env env, void* data, void* /*hint*/) {
  auto* const session = static_cast<Session*>(data);
  const auto keep = std::move(session->self_);
  if (keep == nullptr) return;
  napi_remove_env_cleanup_hook(env, endWithEnvironment, session);
  session->join();
  session->onEvent_.Reset();
}

void Session::endWithEnvironment(void* data) {
  // Until the thread-safe function is finalized, it points to the session.
  auto* const session = static_cast<Session*>(data);
  session->release();
  session->abandon();
  session->join();
  session->onEvent_.Reset();
}

}  // namespace tshyve
