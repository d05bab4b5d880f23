#include "machine/vcpu_thread.h"

#include <pthread.h>

#include <csignal>
#include <utility>

namespace tshyve {
namespace {

/// Interrupts KVM_RUN. A real-time signal, since Node and its libraries use the others.
int kickSignal() { return SIGRTMIN + 5; }

void ignoreKick(int) {}

/// The handler does nothing; without one the signal would end the process.
void installKickHandler() {
  static const bool installed = [] {
    struct sigaction action {};
    action.sa_handler = &ignoreKick;
    sigemptyset(&action.sa_mask);
    // No SA_RESTART: the point is that the call is interrupted.
    return ::sigaction(kickSignal(), &action, nullptr) == 0;
  }();
  static_cast<void>(installed);
}

}  // namespace

VcpuThread::VcpuThread(std::unique_ptr<kvm::Vcpu> vcpu, Environment environment)
    : vcpu_(std::move(vcpu)), environment_(std::move(environment)) {
  installKickHandler();
  // The new thread inherits a mask in which only the kick is open, before any signal can reach it.
  sigset_t mask;
  sigset_t before;
  sigfillset(&mask);
  sigdelset(&mask, kickSignal());
  pthread_sigmask(SIG_SETMASK, &mask, &before);
  thread_ = std::thread([this] { run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

VcpuThread::~VcpuThread() { stop(); }

void VcpuThread::resume() { give(Command::kRun); }

void VcpuThread::requestPause() { give(Command::kPause); }

void VcpuThread::waitPaused() {
  std::unique_lock lock(mutex_);
  condition_.wait(lock, [this] { return paused_ || command_ == Command::kStop; });
}

void VcpuThread::stop() {
  if (!thread_.joinable()) return;
  give(Command::kStop);
  thread_.join();
}

void VcpuThread::give(Command command) {
  {
    const std::lock_guard lock(mutex_);
    if (command_ == command || command_ == Command::kStop) return;
    command_ = command;
    // Cleared here and not by the thread, so that a pause right after a resume waits for the thread again.
    if (command == Command::kRun) paused_ = false;
  }
  condition_.notify_all();
  if (command == Command::kRun) return;
  // The order matters: the command is there when the vCPU sees that it shall leave the guest, and the signal comes last
  // for the case that it was just about to enter.
  vcpu_->requestExit();
  pthread_kill(thread_.native_handle(), kickSignal());
}

bool VcpuThread::obeyCommand() {
  std::unique_lock lock(mutex_);
  while (command_ == Command::kPause || (command_ == Command::kRun && (failed_ || environment_.ended.load()))) {
    paused_ = true;
    condition_.notify_all();
    condition_.wait(lock);
  }
  paused_ = false;
  return command_ == Command::kRun;
}

void VcpuThread::run() {
  pthread_setname_np(pthread_self(), ("vcpu" + std::to_string(vcpu_->id())).c_str());
  while (obeyCommand()) {
    if (!std::exchange(confined_, true)) {
      if (const auto confined = environment_.confine(); !confined) {
        end(true, confined.error().message);
        continue;
      }
    }
    for (;;) {
      const kvm::Exit exit = vcpu_->enter();
      exits_.fetch_add(1, std::memory_order_relaxed);
      if (std::holds_alternative<kvm::Interrupted>(exit)) {
        // Whatever access was pending has been completed by KVM before it came back with this.
        vcpu_->clearExitRequest();
        const std::lock_guard lock(mutex_);
        if (command_ != Command::kRun) break;
        continue;
      }
      handle(exit);
      if (failed_ || environment_.ended.load()) break;
    }
  }
}

void VcpuThread::handle(const kvm::Exit& exit) {
  if (const auto* port = std::get_if<kvm::PortIo>(&exit)) {
    // A string instruction moves several items through one port.
    for (std::size_t at = 0; at + port->width <= port->data.size(); at += port->width) {
      const auto item = port->data.subspan(at, port->width);
      if (port->write) {
        environment_.ports.write(port->port, item);
      } else {
        environment_.ports.read(port->port, item);
      }
    }
  } else if (const auto* memory = std::get_if<kvm::MemoryIo>(&exit)) {
    if (memory->write) {
      environment_.memory.write(memory->address, memory->data);
    } else {
      environment_.memory.read(memory->address, memory->data);
    }
  } else if (std::holds_alternative<kvm::TripleFault>(exit)) {
    // A PC resets then; guests with `reboot=t` count on it.
    end(false, "the guest made a triple fault, which restarts it");
  } else if (const auto* event = std::get_if<kvm::SystemEvent>(&exit)) {
    if (event->type == KVM_SYSTEM_EVENT_RESET) {
      end(false, "the guest asked for a restart");
    } else {
      end(true, "the host's KVM ended the guest with system event " + std::to_string(event->type));
    }
  } else if (const auto* failure = std::get_if<kvm::Failure>(&exit)) {
    end(true, failure->what + "; " + vcpu_->describe());
  } else {
    end(true, "the processor halted for good");
  }
}

void VcpuThread::end(bool crashed, std::string detail) {
  failed_ = true;
  environment_.onEnd({crashed, std::move(detail)});
}

}  // namespace tshyve
