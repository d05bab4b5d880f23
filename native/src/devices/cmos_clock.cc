#include "devices/cmos_clock.h"

#include <utility>

namespace tshyve {
namespace {

using std::chrono::microseconds;
using std::chrono::seconds;

// Registers (data sheet, figure 11); the century is at 0x32 by PC custom.
constexpr std::uint8_t kSeconds = 0x00;
constexpr std::uint8_t kSecondsAlarm = 0x01;
constexpr std::uint8_t kMinutes = 0x02;
constexpr std::uint8_t kMinutesAlarm = 0x03;
constexpr std::uint8_t kHours = 0x04;
constexpr std::uint8_t kHoursAlarm = 0x05;
constexpr std::uint8_t kWeekday = 0x06;
constexpr std::uint8_t kDay = 0x07;
constexpr std::uint8_t kMonth = 0x08;
constexpr std::uint8_t kYear = 0x09;
constexpr std::uint8_t kRegisterA = 0x0a;
constexpr std::uint8_t kRegisterB = 0x0b;
constexpr std::uint8_t kRegisterC = 0x0c;
constexpr std::uint8_t kRegisterD = 0x0d;
constexpr std::uint8_t kCentury = 0x32;

constexpr std::uint8_t kUpdateInProgress = 0x80;  // A
constexpr std::uint8_t kDividerAndRate = 0x26;    // A: 32.768 kHz crystal, 1024 Hz
constexpr std::uint8_t kSet = 0x80;               // B: the guest is writing the time
constexpr std::uint8_t kAlarm = 0x20;             // B: enable; C: flag
constexpr std::uint8_t kUpdateEnded = 0x10;       // B: enable; C: flag
constexpr std::uint8_t kBinary = 0x04;            // B
constexpr std::uint8_t k24Hours = 0x02;           // B
constexpr std::uint8_t kInterruptRequest = 0x80;  // C
constexpr std::uint8_t kValid = 0x80;             // D
constexpr std::uint8_t kAfternoon = 0x80;         // in the hours of the 12-hour mode
constexpr std::uint8_t kAlarmAny = 0xc0;          // alarm bytes with these bits match everything
/// The bit says so this long before the registers change.
constexpr microseconds kUpdateWarning{244};

bool isTime(std::uint8_t index) {
  return index == kSeconds || index == kMinutes || index == kHours || (index >= kWeekday && index <= kYear) ||
         index == kCentury;
}

}  // namespace

Result<std::shared_ptr<CmosClock>> CmosClock::create(EventLoop& loop, std::unique_ptr<InterruptLine> line, Now now) {
  std::shared_ptr<CmosClock> clock(new CmosClock(std::move(line), std::move(now)));
  CmosClock* self = clock.get();
  Result<std::unique_ptr<EventLoop::Timer>> timer = Error{};
  loop.runSync([&] { timer = EventLoop::Timer::create(loop, [self] { self->tick(); }); });
  if (!timer) return timer.error();
  clock->timer_ = *std::move(timer);
  return clock;
}

CmosClock::CmosClock(std::unique_ptr<InterruptLine> line, Now now) : line_(std::move(line)), now_(std::move(now)) {
  registers_[kRegisterA] = kDividerAndRate;
  registers_[kRegisterB] = k24Hours;
}

CmosClock::~CmosClock() = default;

void CmosClock::read(std::uint64_t offset, std::span<std::byte> data) {
  const std::lock_guard lock(mutex_);
  for (std::byte& byte : data) byte = std::byte{offset++ == 1 ? readRegister() : std::uint8_t{0xff}};
}

void CmosClock::write(std::uint64_t offset, std::span<const std::byte> data) {
  const std::lock_guard lock(mutex_);
  for (const std::byte byte : data) {
    const auto value = std::to_integer<std::uint8_t>(byte);
    // The top bit of the index port switches NMIs off on a PC; there are none.
    if (offset == 0) index_ = value & 0x7f;
    if (offset == 1) writeRegister(value);
    offset++;
  }
}

std::uint8_t CmosClock::readRegister() {
  const bool setting = (registers_[kRegisterB] & kSet) != 0;
  switch (index_) {
    case kRegisterA: {
      const auto time = guestTime();
      const bool soon =
          std::chrono::ceil<seconds>(time) - time < kUpdateWarning && time != std::chrono::floor<seconds>(time);
      return static_cast<std::uint8_t>(registers_[kRegisterA] | (soon && !setting ? kUpdateInProgress : 0));
    }
    case kRegisterC: {
      const std::uint8_t flags = registers_[kRegisterC];
      registers_[kRegisterC] = 0;
      if ((flags & kInterruptRequest) != 0) line_->set(false);
      return flags;
    }
    case kRegisterD:
      return kValid;
    default:
      if (isTime(index_) && !setting) latchTime();
      return registers_[index_];
  }
}

void CmosClock::writeRegister(std::uint8_t value) {
  const bool setting = (registers_[kRegisterB] & kSet) != 0;
  if (index_ == kRegisterC || index_ == kRegisterD) return;
  if (index_ == kRegisterA) value &= static_cast<std::uint8_t>(~kUpdateInProgress);
  if (index_ == kRegisterB && (value & kSet) != 0 && !setting) latchTime();
  if (isTime(index_) && !setting) latchTime();
  registers_[index_] = value;
  if (isTime(index_) && !setting) setTime();
  if (index_ == kRegisterB) {
    if (setting && (value & kSet) == 0) setTime();
    armTimer();
  }
}

std::chrono::sys_time<microseconds> CmosClock::guestTime() const {
  return std::chrono::floor<microseconds>(now_()) + seconds(offsetSeconds_);
}

std::uint8_t CmosClock::encode(unsigned value) const {
  if ((registers_[kRegisterB] & kBinary) != 0) return static_cast<std::uint8_t>(value);
  return static_cast<std::uint8_t>(((value / 10) << 4) | (value % 10));
}

unsigned CmosClock::decode(std::uint8_t value) const {
  if ((registers_[kRegisterB] & kBinary) != 0) return value;
  return (value >> 4) * 10U + (value & 0xfU);
}

void CmosClock::latchTime() {
  const auto time = guestTime();
  const auto today = std::chrono::floor<std::chrono::days>(time);
  const std::chrono::year_month_day date(today);
  const std::chrono::hh_mm_ss clock(std::chrono::floor<seconds>(time - today));
  registers_[kSeconds] = encode(static_cast<unsigned>(clock.seconds().count()));
  registers_[kMinutes] = encode(static_cast<unsigned>(clock.minutes().count()));
  const auto hour = static_cast<unsigned>(clock.hours().count());
  if ((registers_[kRegisterB] & k24Hours) != 0) {
    registers_[kHours] = encode(hour);
  } else {
    const unsigned twelve = hour % 12 == 0 ? 12 : hour % 12;
    registers_[kHours] = static_cast<std::uint8_t>(encode(twelve) | (hour >= 12 ? kAfternoon : 0));
  }
  registers_[kWeekday] = encode(std::chrono::weekday(today).c_encoding() + 1);
  registers_[kDay] = encode(static_cast<unsigned>(date.day()));
  registers_[kMonth] = encode(static_cast<unsigned>(date.month()));
  const auto year = static_cast<unsigned>(static_cast<int>(date.year()));
  registers_[kYear] = encode(year % 100);
  registers_[kCentury] = encode(year / 100);
}

void CmosClock::setTime() {
  unsigned hour = decode(registers_[kHours] & static_cast<std::uint8_t>(~kAfternoon));
  if ((registers_[kRegisterB] & k24Hours) != 0) {
    hour = decode(registers_[kHours]);
  } else {
    hour = hour % 12 + ((registers_[kHours] & kAfternoon) != 0 ? 12U : 0U);
  }
  const std::chrono::year_month_day date(
      std::chrono::year(static_cast<int>(decode(registers_[kCentury]) * 100 + decode(registers_[kYear]))),
      std::chrono::month(decode(registers_[kMonth])), std::chrono::day(decode(registers_[kDay])));
  // Nonsense is what the guest reads back at most; the clock keeps its time.
  if (!date.ok() || hour > 23) return;
  const auto time = std::chrono::sys_days(date) + std::chrono::hours(hour) +
                    std::chrono::minutes(decode(registers_[kMinutes])) + seconds(decode(registers_[kSeconds]));
  offsetSeconds_ = (time - std::chrono::floor<seconds>(now_())).count();
}

bool CmosClock::alarmMatches() const {
  const auto matches = [this](std::uint8_t alarm, std::uint8_t time) {
    return (registers_[alarm] & kAlarmAny) == kAlarmAny || registers_[alarm] == registers_[time];
  };
  return matches(kSecondsAlarm, kSeconds) && matches(kMinutesAlarm, kMinutes) && matches(kHoursAlarm, kHours);
}

void CmosClock::armTimer() {
  if ((registers_[kRegisterB] & (kAlarm | kUpdateEnded)) == 0 || (registers_[kRegisterB] & kSet) != 0) {
    timer_->disarm();
    return;
  }
  const auto time = guestTime();
  timer_->arm(std::chrono::floor<seconds>(time) + seconds(1) - time);
}

void CmosClock::tick() {
  const std::lock_guard lock(mutex_);
  if ((registers_[kRegisterB] & kSet) == 0) {
    latchTime();
    raise(kUpdateEnded);
    if (alarmMatches()) raise(kAlarm);
  }
  armTimer();
}

void CmosClock::raise(std::uint8_t flag) {
  registers_[kRegisterC] |= flag;
  if ((registers_[kRegisterB] & flag) == 0) return;
  if ((registers_[kRegisterC] & kInterruptRequest) != 0) return;
  registers_[kRegisterC] |= kInterruptRequest;
  line_->set(true);
}

void CmosClock::save(StateWriter& writer) const {
  const std::lock_guard lock(mutex_);
  writer.section("cmos-clock", 1);
  writer.put(index_);
  writer.put(registers_);
  writer.put(offsetSeconds_);
}

Result<void> CmosClock::restore(StateReader& reader) {
  const std::lock_guard lock(mutex_);
  TSHYVE_TRY([[maybe_unused]] const std::uint32_t version, reader.section("cmos-clock", 1));
  TSHYVE_CHECK(reader.get(index_));
  index_ &= 0x7f;
  TSHYVE_CHECK(reader.get(registers_));
  TSHYVE_CHECK(reader.get(offsetSeconds_));
  line_->set((registers_[kRegisterC] & kInterruptRequest) != 0);
  armTimer();
  return {};
}

}  // namespace tshyve
