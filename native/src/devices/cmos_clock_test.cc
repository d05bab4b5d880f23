#include "devices/cmos_clock.h"

#include <gtest/gtest.h>

namespace tshyve {
namespace {

using std::chrono::milliseconds;
using namespace std::chrono_literals;

class CmosClockTest : public testing::Test {
 protected:
  CmosClockTest() {
    class Line final : public InterruptLine {
     public:
      explicit Line(int& raised) : raised_(raised) {}
      void set(bool asserted) override { raised_ += asserted ? 1 : 0; }

     private:
      int& raised_;
    };
    loop_ = *EventLoop::create("clock");
    clock_ = *CmosClock::create(*loop_, std::make_unique<Line>(interrupts_), [this] { return now_; });
  }
  std::uint8_t in(std::uint8_t index) {
    const std::byte select{index};
    clock_->write(0, std::span(&select, 1));
    std::byte value{};
    clock_->read(1, std::span(&value, 1));
    return std::to_integer<std::uint8_t>(value);
  }
  void out(std::uint8_t index, std::uint8_t value) {
    const std::byte bytes[] = {std::byte{index}, std::byte{value}};
    clock_->write(0, bytes);
  }

  int interrupts_ = 0;
  // Thursday.
  std::chrono::system_clock::time_point now_ =
      std::chrono::sys_days(std::chrono::year(2026) / 12 / 31) + 23h + 59min + 58s + 500ms;
  std::unique_ptr<EventLoop> loop_;
  std::shared_ptr<CmosClock> clock_;
};

TEST_F(CmosClockTest, ShowsTheTimeInBcd) {
  EXPECT_EQ(in(0x00), 0x58);
  EXPECT_EQ(in(0x02), 0x59);
  EXPECT_EQ(in(0x04), 0x23);
  EXPECT_EQ(in(0x06), 0x05);
  EXPECT_EQ(in(0x07), 0x31);
  EXPECT_EQ(in(0x08), 0x12);
  EXPECT_EQ(in(0x09), 0x26);
  EXPECT_EQ(in(0x32), 0x20);
  EXPECT_EQ(in(0x0d), 0x80);
  now_ += 2s;
  EXPECT_EQ(in(0x09), 0x27);
  EXPECT_EQ(in(0x00), 0x00);
}

TEST_F(CmosClockTest, ShowsTheTimeInBinaryWithTwelveHours) {
  out(0x0b, 0x04);
  EXPECT_EQ(in(0x00), 58);
  EXPECT_EQ(in(0x04), 0x80 | 11);
  now_ += 10s;
  EXPECT_EQ(in(0x04), 12);
}

TEST_F(CmosClockTest, WarnsOfAnUpdate) {
  EXPECT_EQ(in(0x0a) & 0x80, 0);
  now_ += 499'900us;
  EXPECT_EQ(in(0x0a) & 0x80, 0x80);
  now_ += 100us;
  EXPECT_EQ(in(0x0a) & 0x80, 0);
}

TEST_F(CmosClockTest, KeepsTheTimeTheGuestSets) {
  out(0x0b, 0x82);
  out(0x09, 0x30);
  out(0x08, 0x02);
  out(0x07, 0x03);
  out(0x04, 0x04);
  out(0x0b, 0x02);
  EXPECT_EQ(in(0x09), 0x30);
  EXPECT_EQ(in(0x07), 0x03);
  now_ += 24h;
  EXPECT_EQ(in(0x07), 0x04);
  EXPECT_EQ(in(0x04), 0x04);
  // Not a date: the clock keeps its own.
  out(0x08, 0x77);
  EXPECT_EQ(in(0x08), 0x02);
}

TEST_F(CmosClockTest, InterruptsWithUpdatesAndAlarms) {
  out(0x01, 0xc0);
  out(0x03, 0xc0);
  out(0x05, 0xc0);
  out(0x0b, 0x32);
  EXPECT_EQ(loop_->runOnce(milliseconds(2000)), 1);
  EXPECT_EQ(interrupts_, 1);
  EXPECT_EQ(in(0x0c), 0xb0);
  EXPECT_EQ(in(0x0c), 0x00);
  out(0x0b, 0x02);
  EXPECT_EQ(loop_->runOnce(milliseconds(0)), 0);
}

TEST_F(CmosClockTest, SurvivesEveryRegisterAndValue) {
  for (unsigned index = 0; index < 256; index++) {
    for (unsigned value = 0; value < 256; value += 3)
      out(static_cast<std::uint8_t>(index), static_cast<std::uint8_t>(value));
    static_cast<void>(in(static_cast<std::uint8_t>(index)));
  }
}

TEST_F(CmosClockTest, RestoresItsState) {
  out(0x0b, 0x82);
  out(0x09, 0x30);
  out(0x0b, 0x02);
  out(0x40, 0x77);
  StateWriter writer;
  clock_->save(writer);
  StateReader reader(writer.data());
  out(0x40, 0x00);
  ASSERT_TRUE(clock_->restore(reader));
  EXPECT_EQ(in(0x40), 0x77);
  EXPECT_EQ(in(0x09), 0x30);
}

}  // namespace
}  // namespace tshyve
