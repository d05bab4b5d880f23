#include "devices/serial.h"

namespace tshyve {
namespace {

// Registers (data sheet, table II); the divisor latch shadows the first two while DLAB is set.
constexpr std::uint64_t kData = 0;
constexpr std::uint64_t kInterruptEnable = 1;
constexpr std::uint64_t kInterruptIdentification = 2;  // read
constexpr std::uint64_t kFifoControl = 2;              // write
constexpr std::uint64_t kLineControl = 3;
constexpr std::uint64_t kModemControl = 4;
constexpr std::uint64_t kLineStatus = 5;
constexpr std::uint64_t kModemStatus = 6;
constexpr std::uint64_t kScratch = 7;

constexpr std::uint8_t kEnableReceived = 0x01;
constexpr std::uint8_t kEnableTransmitter = 0x02;
constexpr std::uint8_t kEnableBits = 0x0f;
constexpr std::uint8_t kIdentifyNone = 0x01;
constexpr std::uint8_t kIdentifyTransmitter = 0x02;
constexpr std::uint8_t kIdentifyReceived = 0x04;
constexpr std::uint8_t kIdentifyFifos = 0xc0;
constexpr std::uint8_t kFifoEnable = 0x01;
constexpr std::uint8_t kFifoClearReceiver = 0x02;
constexpr std::uint8_t kDivisorAccess = 0x80;
constexpr std::uint8_t kModemBits = 0x1f;
constexpr std::uint8_t kDtr = 0x01;
constexpr std::uint8_t kRts = 0x02;
constexpr std::uint8_t kOut1 = 0x04;
constexpr std::uint8_t kOut2 = 0x08;
constexpr std::uint8_t kLoopback = 0x10;
constexpr std::uint8_t kDataReady = 0x01;
constexpr std::uint8_t kTransmitterEmpty = 0x60;  // holding register and shift register
constexpr std::uint8_t kClearToSend = 0x10;
constexpr std::uint8_t kDataSetReady = 0x20;
constexpr std::uint8_t kRingIndicator = 0x40;
constexpr std::uint8_t kCarrierDetect = 0x80;

/// What may wait for a guest that does not read its console.
constexpr std::size_t kMaxInput = 64 * 1024;
/// Output leaves when so much has gathered, or after the delay.
constexpr std::size_t kOutputBatch = 4096;
constexpr std::chrono::milliseconds kOutputDelay{1};

}  // namespace

Result<std::shared_ptr<Serial>> Serial::create(EventLoop& loop, std::unique_ptr<InterruptLine> line, Output output) {
  std::shared_ptr<Serial> serial(new Serial(std::move(line), std::move(output)));
  Serial* port = serial.get();
  Result<std::unique_ptr<EventLoop::Timer>> timer = Error{};
  loop.runSync([&] { timer = EventLoop::Timer::create(loop, [port] { port->flush(); }); });
  if (!timer) return timer.error();
  serial->timer_ = *std::move(timer);
  return serial;
}

Serial::Serial(std::unique_ptr<InterruptLine> line, Output output)
    : line_(std::move(line)), output_(std::move(output)) {}

Serial::~Serial() = default;

void Serial::read(std::uint64_t offset, std::span<std::byte> data) {
  // Wider accesses go to a bus of 8 bits: one register after another.
  const std::lock_guard lock(mutex_);
  for (std::byte& byte : data) byte = std::byte{readRegister(offset++)};
  updateLine();
}

void Serial::write(std::uint64_t offset, std::span<const std::byte> data) {
  bool full = false;
  {
    const std::lock_guard lock(mutex_);
    for (const std::byte byte : data) writeRegister(offset++, std::to_integer<std::uint8_t>(byte));
    updateLine();
    full = pendingOutput_.size() >= kOutputBatch;
  }
  if (full) flush();
}

std::uint8_t Serial::readRegister(std::uint64_t offset) {
  const bool divisorAccess = (lineControl_ & kDivisorAccess) != 0;
  switch (offset) {
    case kData: {
      if (divisorAccess) return static_cast<std::uint8_t>(divisor_);
      if (input_.empty()) return 0;
      const std::uint8_t value = input_.front();
      input_.pop_front();
      return value;
    }
    case kInterruptEnable:
      return divisorAccess ? static_cast<std::uint8_t>(divisor_ >> 8) : interruptEnable_;
    case kInterruptIdentification: {
      const std::uint8_t value = interruptIdentification();
      if (value == kIdentifyTransmitter) transmitterInterrupt_ = false;
      return static_cast<std::uint8_t>(value | ((fifoControl_ & kFifoEnable) != 0 ? kIdentifyFifos : 0));
    }
    case kLineControl:
      return lineControl_;
    case kModemControl:
      return modemControl_;
    case kLineStatus:
      return static_cast<std::uint8_t>(kTransmitterEmpty | (input_.empty() ? 0 : kDataReady));
    case kModemStatus:
      return modemStatus();
    case kScratch:
      return scratch_;
    default:
      return 0xff;
  }
}

void Serial::writeRegister(std::uint64_t offset, std::uint8_t value) {
  const bool divisorAccess = (lineControl_ & kDivisorAccess) != 0;
  switch (offset) {
    case kData:
      if (divisorAccess) {
        divisor_ = static_cast<std::uint16_t>((divisor_ & 0xff00) | value);
      } else {
        transmit(value);
      }
      break;
    case kInterruptEnable:
      if (divisorAccess) {
        divisor_ = static_cast<std::uint16_t>((divisor_ & 0x00ff) | (value << 8));
        break;
      }
      // Enabling the transmitter's interrupt while it is empty, which it always is, raises it.
      if ((value & kEnableTransmitter) != 0 && (interruptEnable_ & kEnableTransmitter) == 0) {
        transmitterInterrupt_ = true;
      }
      interruptEnable_ = value & kEnableBits;
      break;
    case kFifoControl:
      fifoControl_ = value;
      if ((value & kFifoClearReceiver) != 0) input_.clear();
      break;
    case kLineControl:
      lineControl_ = value;
      break;
    case kModemControl:
      modemControl_ = value & kModemBits;
      break;
    case kScratch:
      scratch_ = value;
      break;
    default:
      break;  // line and modem status are read-only
  }
}

void Serial::transmit(std::uint8_t value) {
  transmitterInterrupt_ = true;
  if ((modemControl_ & kLoopback) != 0) {
    if (input_.size() < kMaxInput) input_.push_back(value);
    return;
  }
  if (pendingOutput_.empty()) timer_->arm(kOutputDelay);
  pendingOutput_.push_back(static_cast<char>(value));
}

std::uint8_t Serial::interruptIdentification() const {
  if ((interruptEnable_ & kEnableReceived) != 0 && !input_.empty()) return kIdentifyReceived;
  if ((interruptEnable_ & kEnableTransmitter) != 0 && transmitterInterrupt_) return kIdentifyTransmitter;
  return kIdentifyNone;
}

std::uint8_t Serial::modemStatus() const {
  if ((modemControl_ & kLoopback) == 0) return kCarrierDetect | kDataSetReady | kClearToSend;
  // The outputs are connected to the inputs; drivers find out with it whether a port is there.
  std::uint8_t status = 0;
  if ((modemControl_ & kRts) != 0) status |= kClearToSend;
  if ((modemControl_ & kDtr) != 0) status |= kDataSetReady;
  if ((modemControl_ & kOut1) != 0) status |= kRingIndicator;
  if ((modemControl_ & kOut2) != 0) status |= kCarrierDetect;
  return status;
}

void Serial::updateLine() {
  const bool asserted = interruptIdentification() != kIdentifyNone;
  if (asserted == lineAsserted_) return;
  lineAsserted_ = asserted;
  line_->set(asserted);
}

Result<void> Serial::receive(std::span<const std::byte> bytes) {
  const std::lock_guard lock(mutex_);
  if (bytes.size() > kMaxInput - input_.size()) {
    return Error{ErrorCode::kBusy, "the guest does not read its console: " + std::to_string(input_.size()) +
                                       " bytes of input wait already"};
  }
  for (const std::byte byte : bytes) input_.push_back(std::to_integer<std::uint8_t>(byte));
  updateLine();
  return {};
}

void Serial::flush() {
  const std::lock_guard order(outputMutex_);
  std::string bytes;
  {
    const std::lock_guard lock(mutex_);
    bytes.swap(pendingOutput_);
  }
  if (!bytes.empty()) output_(std::move(bytes));
}

void Serial::save(StateWriter& writer) const {
  const std::lock_guard lock(mutex_);
  writer.section("serial", 1);
  for (const std::uint8_t value : {interruptEnable_, fifoControl_, lineControl_, modemControl_, scratch_,
                                   static_cast<std::uint8_t>(transmitterInterrupt_ ? 1 : 0)}) {
    writer.put(value);
  }
  writer.put(divisor_);
  writer.putString(std::string(input_.begin(), input_.end()));
  writer.putString(pendingOutput_);
}

Result<void> Serial::restore(StateReader& reader) {
  const std::lock_guard lock(mutex_);
  TSHYVE_TRY([[maybe_unused]] const std::uint32_t version, reader.section("serial", 1));
  std::uint8_t transmitter = 0;
  for (std::uint8_t* value :
       {&interruptEnable_, &fifoControl_, &lineControl_, &modemControl_, &scratch_, &transmitter}) {
    TSHYVE_CHECK(reader.get(*value));
  }
  TSHYVE_CHECK(reader.get(divisor_));
  TSHYVE_TRY(const std::string input, reader.getString());
  if (input.size() > kMaxInput) return Error{ErrorCode::kCorrupt, "the snapshot's serial port holds too much"};
  input_.assign(input.begin(), input.end());
  TSHYVE_TRY(pendingOutput_, reader.getString());
  if (!pendingOutput_.empty()) timer_->arm(kOutputDelay);
  // An edge that the saved interrupt controller had not seen yet would be lost and the guest's output hang: a
  // transmitter interrupt too many harms nobody.
  transmitterInterrupt_ = transmitter != 0 || (interruptEnable_ & kEnableTransmitter) != 0;
  lineAsserted_ = false;
  line_->set(false);
  updateLine();
  return {};
}

}  // namespace tshyve
