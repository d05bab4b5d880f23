#pragma once

#import <Foundation/Foundation.h>

#include <string>

#include "base/result.h"

namespace tshyve::vz {

inline NSString* toNSString(const std::string& text) {
  // Nil when the bytes are no UTF-8; paths and texts of ours are, and an empty one is refused where it is used.
  NSString* const string = [[NSString alloc] initWithBytes:text.data()
                                                    length:text.size()
                                                  encoding:NSUTF8StringEncoding];
  return string != nil ? string : @"";
}

inline NSURL* toFileURL(const std::string& path) { return [NSURL fileURLWithPath:toNSString(path)]; }

inline std::string toString(NSString* string) {
  const char* const text = string.UTF8String;
  return text != nullptr ? std::string(text) : std::string();
}

/// What the framework says, and its reason where it has one.
inline Error toError(const std::string& what, NSError* error) {
  if (error == nil) return {ErrorCode::kHost, what + ": macOS does not say why"};
  std::string message = what + ": " + toString(error.localizedDescription);
  NSString* const reason = error.localizedFailureReason;
  if (reason != nil) message += " " + toString(reason);
  message += " (" + toString(error.domain) + " " + std::to_string(error.code) + ")";
  return {ErrorCode::kHost, message};
}

/// Runs calls of the framework; an exception of Objective-C, with which it answers misuse, becomes an error.
template <typename T, typename Calls>
Result<T> guarded(const std::string& what, Calls calls) {
  @try {
    return calls();
  } @catch (NSException* exception) {
    return Error{ErrorCode::kHost, what + ": " + toString(exception.name) + ": " + toString(exception.reason)};
  }
}

}  // namespace tshyve::vz
