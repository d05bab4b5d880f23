#include "vz/vz_machine.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "vz/console.h"
#include "vz/kernel_image.h"
#include "vz/life.h"
#include "vz/sockets.h"

namespace tshyve::vz {
namespace {

// What a snapshot folder holds.
constexpr const char* kStateFile = "/machine-state";
constexpr const char* kIdentifierFile = "/machine-identifier";
/// Apple's is some dozen bytes.
constexpr std::size_t kMaxIdentifier = 4096;

Result<std::string> readIdentifier(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return Error::fromErrno("cannot read the saved machine's " + path);
  std::string bytes(kMaxIdentifier + 1, '\0');
  std::size_t done = 0;
  for (;;) {
    const ssize_t got = ::read(fd.get(), bytes.data() + done, bytes.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Error::fromErrno("cannot read the saved machine's " + path);
    done += static_cast<std::size_t>(got);
    if (got == 0 || done == bytes.size()) break;
  }
  if (done == 0 || done > kMaxIdentifier) {
    return Error{ErrorCode::kCorrupt, "the saved machine's " + path + " is damaged: give the saved state up"};
  }
  bytes.resize(done);
  return bytes;
}

Result<void> writeFile(const std::string& path, const std::string& bytes) {
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd || ::write(fd.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) {
    return Error::fromErrno("cannot write " + path);
  }
  return {};
}

/// An answer that two threads wait for; kept alive by both.
template <typename T>
struct Answer {
  std::mutex mutex;
  std::condition_variable changed;
  std::optional<Result<T>> result;
};

/// The machine itself. Work on the queue holds a reference: should macOS not answer, nothing of it is pulled away from
/// under a call that comes back late.
class Core final : public Observer, public std::enable_shared_from_this<Core> {
 public:
  Core(std::shared_ptr<Framework> framework, EventSink sink, Patience patience)
      : framework_(std::move(framework)), sink_(std::move(sink)), patience_(patience) {}
  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;
  ~Core() override { closeFiles(); }

  Result<void> assemble(const MachineConfig& config, const std::optional<std::string>& snapshotFolder);
  Result<void> start();
  Result<void> pause();
  Result<void> resume();
  Result<void> pressPowerButton();
  void stop();
  Result<void> save(const std::string& snapshotFolder);
  Result<void> writeConsole(std::span<const std::byte> bytes) { return console_->write(bytes); }
  [[nodiscard]] std::uint64_t balloonBytes();
  /// Ends the machine and lets go of all the framework's objects.
  void close();

 private:
  void closeFiles();
  Result<void> openSerialPorts();
  Result<void> openSockets();
  Result<void> openBridge(const VsockConfig& config);

  // Observer; on the queue.
  void guestStopped() override;
  void stoppedWithError(const std::string& description) override;
  void networkDisconnected(const std::string& description) override;
  bool guestConnected(std::uint32_t port, UniqueFd connection) override;

  /// Runs work on the queue and waits for what it answers.
  template <typename T>
  Result<T> ask(const std::string& what, std::chrono::milliseconds patience,
                std::function<void(std::function<void(Result<T>)>)> work);
  /// Checks that the machine takes the command, gives it, and waits until it is done.
  Result<void> command(Command command, const std::string& what, std::chrono::milliseconds patience,
                       std::function<void(FrameworkMachine&, Done)> give);
  /// One look at a machine that is to end; on the queue. @return true when it is over
  bool stopStep(const std::shared_ptr<bool>& asked, std::chrono::milliseconds waited);
  /// Tells the end once; on the queue.
  void end(ExitReason reason, const std::string& detail);
  void log(const std::string& line) {
    if (!ended_) sink_(MachineLog{line});
  }

  const std::shared_ptr<Framework> framework_;
  const EventSink sink_;
  const Patience patience_;
  std::shared_ptr<Queue> queue_;
  Plan plan_;
  Resources resources_;
  std::string restoreFrom_;  ///< file of a saved state; empty: the machine boots

  std::unique_ptr<Console> console_;
  std::vector<FrameSocket> sockets_;
  struct Terminal {
    UniqueFd master;
    UniqueFd slave;  ///< kept open, so that the framework's end never sees a hang-up
    std::string link;
  };
  std::vector<Terminal> terminals_;
  std::atomic<bool> ended_{false};
  std::atomic<bool> stopping_{false};  ///< `stop` was called

  // On the queue only, once there is one.
  std::unique_ptr<SocketBridge> bridge_;
  std::unique_ptr<FrameworkMachine> machine_;
};

Result<void> Core::assemble(const MachineConfig& config, const std::optional<std::string>& snapshotFolder) {
  const HostFacts facts = framework_->facts();
  TSHYVE_TRY(plan_, planMachine(config, facts));
  if (snapshotFolder) {
    if (!plan_.cannotSave.empty()) return Error{ErrorCode::kUnsupported, plan_.cannotSave};
    restoreFrom_ = *snapshotFolder + kStateFile;
    if (::access(restoreFrom_.c_str(), R_OK) != 0) {
      return Error::fromErrno("cannot read the saved machine's " + restoreFrom_);
    }
    TSHYVE_TRY(resources_.identifier, readIdentifier(*snapshotFolder + kIdentifierFile));
  }
  if (const auto* linux_ = std::get_if<LinuxPlan>(&plan_.boot)) {
    TSHYVE_TRY(resources_.kernelImage, prepareKernel(linux_->kernel, linux_->kernel + ".unpacked", facts.processor));
  }
  TSHYVE_CHECK(openSerialPorts());
  TSHYVE_CHECK(openSockets());
  queue_ = framework_->makeQueue();
  if (config.vsock) TSHYVE_CHECK(openBridge(*config.vsock));
  for (const std::string& note : plan_.notes) log(note);
  const auto built = ask<bool>("building the machine", patience_.command, [this](auto done) {
    auto made = framework_->build(plan_, resources_, queue_, *this);
    if (!made) {
      Error error = std::move(made).error();
      error.message = explainFailure(error.message);
      done(std::move(error));
      return;
    }
    machine_ = std::move(made).value();
    done(true);
  });
  if (!built) return built.error();
  return {};
}

Result<void> Core::openSockets() {
  for (const NetworkPlan& network : plan_.networks) {
    if (network.kind != NetworkKind::kFileHandle) {
      resources_.sockets.push_back(-1);
      continue;
    }
    TSHYVE_TRY(FrameSocket socket, openFrameSocket(network.peer));
    resources_.sockets.push_back(socket.fd.get());
    sockets_.push_back(std::move(socket));
  }
  return {};
}

Result<void> Core::openBridge(const VsockConfig& config) {
  resources_.listenPorts = config.ports;
  auto onClient = [queue = queue_, weak = weak_from_this()](std::uint64_t id, std::uint32_t port) {
    queue->post([weak, id, port] {
      const auto self = weak.lock();
      if (self == nullptr || self->bridge_ == nullptr) return;
      if (self->machine_ == nullptr || self->ended_) {
        self->bridge_->joinClient(id, Error{ErrorCode::kState, "the machine has ended"});
        return;
      }
      self->machine_->connect(port, [weak, id](Result<UniqueFd> guest) {
        const auto alive = weak.lock();
        if (alive != nullptr && alive->bridge_ != nullptr) alive->bridge_->joinClient(id, std::move(guest));
      });
    });
  };
  TSHYVE_TRY(bridge_, SocketBridge::create(config, std::move(onClient)));
  return {};
}

Result<void> Core::openSerialPorts() {
  for (const SerialPlan& port : plan_.serialPorts) {
    switch (port.kind) {
      case SerialKind::kEvents: {
        TSHYVE_TRY(console_, Console::create([this](std::string bytes) { sink_(ConsoleOutput{std::move(bytes)}); }));
        resources_.serialPorts.push_back({console_->guestRead(), console_->guestWrite()});
        break;
      }
      case SerialKind::kFile:
        resources_.serialPorts.push_back({});
        break;
      case SerialKind::kTerminal: {
        Terminal terminal;
        terminal.master.reset(::posix_openpt(O_RDWR | O_NOCTTY));
        const int master = terminal.master.get();
        if (!terminal.master || ::fcntl(master, F_SETFD, FD_CLOEXEC) != 0 || ::grantpt(master) != 0 ||
            ::unlockpt(master) != 0) {
          return Error::fromErrno("cannot make a pseudo-terminal for the guest");
        }
        const char* const name = ::ptsname(master);
        if (name == nullptr) return Error::fromErrno("cannot make a pseudo-terminal for the guest");
        terminal.slave.reset(::open(name, O_RDWR | O_NOCTTY | O_CLOEXEC));
        if (!terminal.slave) return Error::fromErrno(std::string("cannot open ") + name);
        ::unlink(port.path.c_str());
        if (::symlink(name, port.path.c_str()) != 0) return Error::fromErrno("cannot make the link " + port.path);
        terminal.link = port.path;
        resources_.serialPorts.push_back({master, master});
        terminals_.push_back(std::move(terminal));
        break;
      }
    }
  }
  return {};
}

template <typename T>
Result<T> Core::ask(const std::string& what, std::chrono::milliseconds patience,
                    std::function<void(std::function<void(Result<T>)>)> work) {
  auto answer = std::make_shared<Answer<T>>();
  queue_->post([self = shared_from_this(), answer, work = std::move(work)] {
    work([answer](Result<T> result) {
      const std::lock_guard lock(answer->mutex);
      answer->result.emplace(std::move(result));
      answer->changed.notify_all();
    });
  });
  std::unique_lock lock(answer->mutex);
  if (!answer->changed.wait_for(lock, patience, [&] { return answer->result.has_value(); })) {
    return Error{ErrorCode::kHost, what + " has not ended within " + std::to_string(patience.count() / 1000) +
                                       " s: macOS does not answer. End the machine and start it again"};
  }
  return std::move(*answer->result);
}

Result<void> Core::command(Command command, const std::string& what, std::chrono::milliseconds patience,
                           std::function<void(FrameworkMachine&, Done)> give) {
  const auto done = ask<bool>(what, patience, [this, command, give = std::move(give)](auto answer) {
    if (machine_ == nullptr || ended_) {
      answer(Error{ErrorCode::kState, "the machine has ended"});
      return;
    }
    if (auto may = allowed(command, machine_->state()); !may) {
      answer(may.error());
      return;
    }
    give(*machine_, [answer](Result<void> result) {
      if (result) {
        answer(true);
      } else {
        answer(Error{result.error().code, explainFailure(result.error().message)});
      }
    });
  });
  if (!done) return done.error();
  return {};
}

Result<void> Core::start() {
  if (restoreFrom_.empty()) {
    return command(Command::kStart, "starting the machine", patience_.command,
                   [](FrameworkMachine& machine, Done done) { machine.start(std::move(done)); });
  }
  TSHYVE_CHECK(
      command(Command::kStart, "restoring the machine", patience_.saving,
              [file = restoreFrom_](FrameworkMachine& machine, Done done) { machine.restore(file, std::move(done)); }));
  return resume();
}

Result<void> Core::pause() {
  return command(Command::kPause, "pausing the machine", patience_.command,
                 [](FrameworkMachine& machine, Done done) { machine.pause(std::move(done)); });
}

Result<void> Core::resume() {
  return command(Command::kResume, "resuming the machine", patience_.command,
                 [](FrameworkMachine& machine, Done done) { machine.resume(std::move(done)); });
}

Result<void> Core::pressPowerButton() {
  return command(Command::kPressPowerButton, "pressing the power button", patience_.command,
                 [](FrameworkMachine& machine, const Done& done) { done(machine.requestStop()); });
}

void Core::stop() {
  if (queue_ == nullptr) return;
  stopping_ = true;
  const auto since = std::chrono::steady_clock::now();
  // Belongs to the queue.
  const auto asked = std::make_shared<bool>(false);
  for (;;) {
    const auto waited = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - since);
    const auto over = ask<bool>("ending the machine", patience_.command,
                                [this, asked, waited](auto done) { done(stopStep(asked, waited)); });
    if (!over || *over) return;
    std::this_thread::sleep_for(patience_.stopPoll);
  }
}

bool Core::stopStep(const std::shared_ptr<bool>& asked, std::chrono::milliseconds waited) {
  if (machine_ == nullptr || ended_) return true;
  const State state = machine_->state();
  switch (nextStopStep(state, *asked, waited)) {
    case StopStep::kDone:
      break;
    case StopStep::kStop:
      *asked = true;
      machine_->stop([self = shared_from_this(), asked](Result<void> result) {
        if (result) return;
        // It may be between two states; the next look decides.
        *asked = false;
        self->log("macOS did not end the machine: " + result.error().message);
      });
      return false;
    case StopStep::kWait:
      return false;
    case StopStep::kGiveUp:
      log(std::string("macOS keeps the machine ") + toText(state) + "; letting go of it");
      machine_.reset();
      break;
  }
  end(ExitReason::kKilled, "the machine was ended by request");
  return true;
}

Result<void> Core::save(const std::string& snapshotFolder) {
  if (!plan_.cannotSave.empty()) return Error{ErrorCode::kUnsupported, plan_.cannotSave};
  if (::mkdir(snapshotFolder.c_str(), 0700) != 0 && errno != EEXIST) {
    return Error::fromErrno("cannot make the folder " + snapshotFolder);
  }
  const std::string state = snapshotFolder + kStateFile;
  ::unlink(state.c_str());
  // Written before the state: a folder with a state is complete.
  const auto identifier = ask<std::string>("reading the machine's identifier", patience_.command, [this](auto done) {
    if (machine_ == nullptr) {
      done(Error{ErrorCode::kState, "the machine has ended"});
    } else {
      done(machine_->identifier());
    }
  });
  if (!identifier) return identifier.error();
  TSHYVE_CHECK(writeFile(snapshotFolder + kIdentifierFile, *identifier));
  const auto saved = command(Command::kSave, "saving the machine", patience_.saving,
                             [state](FrameworkMachine& machine, Done done) { machine.save(state, std::move(done)); });
  if (!saved) {
    ::unlink(state.c_str());
    return saved;
  }
  if (::chmod(state.c_str(), 0600) != 0) return Error::fromErrno("cannot protect " + state);
  return {};
}

std::uint64_t Core::balloonBytes() {
  const auto bytes = ask<std::uint64_t>("asking for statistics", patience_.command, [this](auto done) {
    done(machine_ == nullptr ? std::uint64_t{0} : machine_->balloonBytes());
  });
  return bytes ? *bytes : 0;
}

void Core::close() {
  stop();
  if (queue_ != nullptr) {
    // The framework's objects end where they have lived.
    const auto released = ask<bool>("letting go of the machine", patience_.command, [this](auto done) {
      machine_.reset();
      bridge_.reset();
      done(true);
    });
    // Its descriptors are in use until it answers; what is on the queue then ends with this object.
    if (!released) return;
  }
  closeFiles();
}

void Core::closeFiles() {
  if (console_ != nullptr) console_->finish();
  sockets_.clear();
  for (const Terminal& terminal : terminals_) ::unlink(terminal.link.c_str());
  terminals_.clear();
}

void Core::guestStopped() {
  // The framework tells so, too, when it was asked to end the machine.
  if (stopping_) {
    end(ExitReason::kKilled, "the machine was ended by request");
  } else {
    end(ExitReason::kShutdown, "the guest powered off");
  }
}

void Core::stoppedWithError(const std::string& description) {
  end(ExitReason::kCrashed, "macOS ended the machine: " + explainFailure(description));
}

void Core::networkDisconnected(const std::string& description) {
  log("a network of the machine is disconnected: " + description);
}

bool Core::guestConnected(std::uint32_t port, UniqueFd connection) {
  return bridge_ != nullptr && bridge_->joinGuest(port, std::move(connection));
}

void Core::end(ExitReason reason, const std::string& detail) {
  if (ended_) return;
  ended_ = true;
  // What the guest printed last lies in the pipe.
  if (console_ != nullptr) console_->finish();
  sink_(MachineExited{reason, detail});
}

/// What its owner has of a machine.
class VzMachine final : public Machine {
 public:
  explicit VzMachine(std::shared_ptr<Core> core) : core_(std::move(core)) {}
  VzMachine(const VzMachine&) = delete;
  VzMachine& operator=(const VzMachine&) = delete;
  ~VzMachine() override { core_->close(); }

  Result<void> start() override { return core_->start(); }
  Result<void> pause() override { return core_->pause(); }
  Result<void> resume() override { return core_->resume(); }
  Result<void> pressPowerButton() override { return core_->pressPowerButton(); }
  void stop() override { core_->stop(); }
  Result<void> save(const std::string& snapshotFolder) override { return core_->save(snapshotFolder); }
  Result<void> writeConsole(std::span<const std::byte> bytes) override { return core_->writeConsole(bytes); }
  Result<std::uint16_t> addForward(std::uint32_t /*nic*/, const ForwardConfig& /*forward*/) override {
    return noForwards();
  }
  Result<void> removeForward(std::uint32_t /*nic*/, const ForwardConfig& /*forward*/) override { return noForwards(); }
  [[nodiscard]] MachineStatistics statistics() const override { return {0, core_->balloonBytes()}; }

 private:
  static Error noForwards() {
    return {ErrorCode::kUnsupported,
            "networks of macOS forward no ports: the host reaches the machine at its own address"};
  }
  const std::shared_ptr<Core> core_;
};

}  // namespace

Result<std::unique_ptr<Machine>> makeMachine(const std::shared_ptr<Framework>& framework, const MachineConfig& config,
                                             const std::optional<std::string>& snapshotFolder, EventSink sink,
                                             Patience patience) {
  auto core = std::make_shared<Core>(framework, std::move(sink), patience);
  // Whatever fails on the way, what there is ends as a machine does.
  auto machine = std::make_unique<VzMachine>(core);
  TSHYVE_CHECK(core->assemble(config, snapshotFolder));
  return std::unique_ptr<Machine>(std::move(machine));
}

}  // namespace tshyve::vz
