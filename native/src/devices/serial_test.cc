#include "devices/serial.h"

#include <gtest/gtest.h>

#include <vector>

namespace tshyve {
namespace {

using std::chrono::milliseconds;

class RecordedLine final : public InterruptLine {
 public:
  explicit RecordedLine(std::vector<bool>& levels) : levels_(levels) {}
  void set(bool asserted) override { levels_.push_back(asserted); }

 private:
  std::vector<bool>& levels_;
};

class SerialTest : public testing::Test {
 protected:
  SerialTest() {
    loop_ = *EventLoop::create("serial");
    serial_ = *Serial::create(*loop_, std::make_unique<RecordedLine>(levels_),
                              [this](std::string bytes) { output_ += bytes; });
  }
  std::uint8_t in(std::uint64_t offset) {
    std::byte value{};
    serial_->read(offset, std::span(&value, 1));
    return std::to_integer<std::uint8_t>(value);
  }
  void out(std::uint64_t offset, std::uint8_t value) {
    const std::byte byte{value};
    serial_->write(offset, std::span(&byte, 1));
  }
  Result<void> receive(std::string_view text) { return serial_->receive(std::as_bytes(std::span(text))); }

  std::vector<bool> levels_;
  std::string output_;
  std::unique_ptr<EventLoop> loop_;
  std::shared_ptr<Serial> serial_;
};

TEST_F(SerialTest, GathersOutputAndHandsItOnSoon) {
  for (const char byte : std::string("hello\n")) out(0, static_cast<std::uint8_t>(byte));
  EXPECT_EQ(output_, "");
  EXPECT_EQ(in(5) & 0x60, 0x60);
  loop_->runOnce(milliseconds(1000));
  EXPECT_EQ(output_, "hello\n");
}

TEST_F(SerialTest, KeepsOutputBounded) {
  for (int count = 0; count < 10'000; count++) out(0, 'x');
  EXPECT_GE(output_.size(), 8192U);
  serial_->flush();
  EXPECT_EQ(output_.size(), 10'000U);
}

TEST_F(SerialTest, RaisesTheTransmitterInterruptOnceForEachReason) {
  out(1, 0x02);
  EXPECT_EQ(levels_, (std::vector<bool>{true}));
  EXPECT_EQ(in(2), 0x02);
  EXPECT_EQ(in(2), 0x01);
  out(1, 0x02);  // was on already
  EXPECT_EQ(in(2), 0x01);
  out(0, 'x');
  EXPECT_EQ(in(2), 0x02);
  EXPECT_EQ(levels_, (std::vector<bool>{true, false, true, false}));
}

TEST_F(SerialTest, InputComesBeforeTheTransmitter) {
  out(1, 0x03);
  ASSERT_TRUE(receive("ab"));
  EXPECT_EQ(in(2), 0x04);
  EXPECT_EQ(in(5) & 0x01, 0x01);
  EXPECT_EQ(in(0), 'a');
  EXPECT_EQ(in(0), 'b');
  EXPECT_EQ(in(2), 0x02);
  EXPECT_EQ(in(5) & 0x01, 0);
  EXPECT_EQ(in(0), 0);
}

TEST_F(SerialTest, RefusesInputThatNobodyReads) {
  const std::string much(64 * 1024, 'x');
  ASSERT_TRUE(receive(much));
  const auto refused = receive("y");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kBusy);
  out(2, 0x02);  // the guest clears its FIFO
  EXPECT_TRUE(receive("y"));
}

TEST_F(SerialTest, LoopbackStaysInside) {
  out(4, 0x1f);
  EXPECT_EQ(in(6), 0xf0);
  out(4, 0x12);
  EXPECT_EQ(in(6), 0x10);
  out(0, 'z');
  EXPECT_EQ(in(0), 'z');
  serial_->flush();
  EXPECT_EQ(output_, "");
  out(4, 0x00);
  EXPECT_EQ(in(6), 0xb0);
}

TEST_F(SerialTest, HasADivisorLatchScratchAndFifoBits) {
  out(3, 0x83);
  out(0, 0x01);
  out(1, 0x02);
  EXPECT_EQ(in(0), 0x01);
  EXPECT_EQ(in(1), 0x02);
  out(3, 0x03);
  EXPECT_EQ(in(1), 0x00);
  out(7, 0x5a);
  EXPECT_EQ(in(7), 0x5a);
  out(2, 0x01);
  EXPECT_EQ(in(2), 0xc1);
  serial_->flush();
  EXPECT_EQ(output_, "");
}

TEST_F(SerialTest, AnswersAnyWidthAndOffset) {
  std::array<std::byte, 8> data{};
  for (std::uint64_t offset = 0; offset < 16; offset++) {
    for (std::size_t width = 1; width <= 8; width++) {
      serial_->read(offset, std::span(data).first(width));
      serial_->write(offset, std::span(data).first(width));
    }
  }
}

TEST_F(SerialTest, RestoresItsStateAndRaisesAgainWhatMayBeLost) {
  out(1, 0x03);
  static_cast<void>(in(2));
  out(7, 0x42);
  ASSERT_TRUE(receive("q"));
  out(0, 'p');
  StateWriter writer;
  serial_->save(writer);

  std::vector<bool> levels;
  std::string output;
  const auto other =
      *Serial::create(*loop_, std::make_unique<RecordedLine>(levels), [&](std::string bytes) { output += bytes; });
  StateReader reader(writer.data());
  ASSERT_TRUE(other->restore(reader));
  EXPECT_EQ(levels, (std::vector<bool>{false, true}));
  other->flush();
  EXPECT_EQ(output, "p");
  serial_ = other;
  EXPECT_EQ(in(7), 0x42);
  EXPECT_EQ(in(0), 'q');
  EXPECT_EQ(in(2), 0x02);

  StateReader cut(writer.data().first(writer.data().size() - 1));
  EXPECT_FALSE(other->restore(cut));
}

}  // namespace
}  // namespace tshyve
