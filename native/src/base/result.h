#pragma once

#include <cerrno>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <variant>

namespace tshyve {

/// What kind of thing went wrong; the TypeScript side turns it into an error kind of its own.
enum class ErrorCode {
  kInvalidArgument,  ///< the configuration is off
  kUnsupported,      ///< this host or build cannot do it
  kPermission,       ///< the host refuses; the message names the fix
  kNotFound,
  kBusy,
  kNoSpace,
  kHost,     ///< a system call failed
  kGuest,    ///< the guest broke a protocol
  kCorrupt,  ///< a file (image, snapshot) does not parse
  kState,    ///< not possible in the present state
};

/// A failure whose message is a sentence: what failed, why, and where it is known what to do.
struct Error {
  ErrorCode code = ErrorCode::kHost;
  std::string message;

  /// A failed system call: "what: strerror". EACCES and EPERM become kPermission, ENOSPC kNoSpace, ENOENT kNotFound.
  static Error fromErrno(const std::string& what, int number = errno) {
    ErrorCode code = ErrorCode::kHost;
    if (number == EACCES || number == EPERM) code = ErrorCode::kPermission;
    if (number == ENOSPC || number == EDQUOT) code = ErrorCode::kNoSpace;
    if (number == ENOENT) code = ErrorCode::kNotFound;
    if (number == EBUSY || number == EWOULDBLOCK) code = ErrorCode::kBusy;
    return {code, what + ": " + std::strerror(number)};
  }
};

/// A value or an Error. Cannot be ignored: an unchecked length from the guest is how hypervisors get broken into.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT(google-explicit-constructor)
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT(google-explicit-constructor)

  [[nodiscard]] bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }
  [[nodiscard]] T& value() & { return std::get<0>(state_); }
  [[nodiscard]] const T& value() const& { return std::get<0>(state_); }
  [[nodiscard]] T&& value() && { return std::get<0>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  [[nodiscard]] const Error& error() const& { return std::get<1>(state_); }
  [[nodiscard]] Error&& error() && { return std::get<1>(std::move(state_)); }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT(google-explicit-constructor)

  [[nodiscard]] bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }
  [[nodiscard]] const Error& error() const { return *error_; }

 private:
  std::optional<Error> error_;
};

/// Returns the error of a failed `Result<void>` from the calling function.
#define TSHYVE_CHECK(expression)                                                      \
  do {                                                                                \
    if (auto check_result = (expression); !check_result) return check_result.error(); \
  } while (false)

#define TSHYVE_CONCAT_INNER(a, b) a##b
#define TSHYVE_CONCAT(a, b) TSHYVE_CONCAT_INNER(a, b)
/// `TSHYVE_TRY(auto fd, open(...));` declares the value or returns the error from the calling function.
#define TSHYVE_TRY(declaration, expression) \
  TSHYVE_TRY_INNER(TSHYVE_CONCAT(try_result_, __LINE__), declaration, expression)
#define TSHYVE_TRY_INNER(result, declaration, expression) \
  auto result = (expression);                             \
  if (!result) return std::move(result).error();          \
  declaration = std::move(result).value()

}  // namespace tshyve
