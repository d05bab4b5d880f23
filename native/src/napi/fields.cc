#include "napi/fields.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace tshyve {

Fields::Fields(Napi::Value value, std::string path) : Fields(value, std::move(path), std::make_shared<std::string>()) {}

Fields::Fields(Napi::Value value, std::string path, std::shared_ptr<std::string> failure)
    : path_(std::move(path)), failure_(std::move(failure)) {
  if (value.IsObject() && !value.IsArray()) {
    object_ = value.As<Napi::Object>();
  } else if (failure_->empty()) {
    *failure_ = path_ + " must be an object";
  }
}

Napi::Value Fields::get(const char* key) {
  asked_.emplace_back(key);
  if (object_.IsEmpty() || !failure_->empty()) return {};
  return object_.Get(key);
}

bool Fields::has(const char* key) const { return !object_.IsEmpty() && object_.Has(key); }

void Fields::fail(const char* key, const std::string& expected) {
  if (failure_->empty()) *failure_ = path_ + "." + key + " must be " + expected;
}

std::string Fields::text(const char* key, std::size_t maxBytes) {
  const Napi::Value value = get(key);
  std::string text;
  if (value.IsString()) text = value.As<Napi::String>().Utf8Value();
  // A NUL would end the text early in every system call it is given to.
  if (!value.IsString() || text.size() > maxBytes || text.find('\0') != std::string::npos) {
    fail(key, "a text of at most " + std::to_string(maxBytes) + " bytes without NUL");
    return {};
  }
  return text;
}

bool Fields::flag(const char* key) {
  const Napi::Value value = get(key);
  if (!value.IsBoolean()) {
    fail(key, "true or false");
    return false;
  }
  return value.As<Napi::Boolean>().Value();
}

std::uint64_t Fields::number(const char* key, std::uint64_t least, std::uint64_t most) {
  const Napi::Value value = get(key);
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : std::nan("");
  // Written so that NaN fails it.
  if (!(number >= static_cast<double>(least) && number <= static_cast<double>(most)) || std::trunc(number) != number) {
    fail(key, "a whole number from " + std::to_string(least) + " to " + std::to_string(most));
    return least;
  }
  return static_cast<std::uint64_t>(number);
}

Fields Fields::object(const char* key) { return {get(key), path_ + "." + key, failure_}; }

void Fields::each(const char* key, std::size_t maxLength, const std::function<void(Fields&)>& read) {
  const Napi::Value value = get(key);
  const std::size_t length = value.IsArray() ? value.As<Napi::Array>().Length() : maxLength + 1;
  if (length > maxLength) {
    fail(key, "a list of at most " + std::to_string(maxLength) + " objects");
    return;
  }
  const auto array = value.As<Napi::Array>();
  for (std::uint32_t index = 0; index < length; ++index) {
    Fields element(array.Get(index), path_ + "." + key + "[" + std::to_string(index) + "]", failure_);
    read(element);
    element.finish();
  }
}

void Fields::finish() {
  if (object_.IsEmpty() || !failure_->empty()) return;
  const Napi::Array names = object_.GetPropertyNames();
  for (std::uint32_t index = 0; !names.IsEmpty() && index < names.Length(); ++index) {
    const Napi::Value name = names.Get(index);
    const std::string text = name.IsString() ? name.As<Napi::String>().Utf8Value() : std::string();
    if (std::find(asked_.begin(), asked_.end(), text) == asked_.end()) {
      *failure_ = path_ + " has the unknown field \"" + text + "\"";
      return;
    }
  }
}

}  // namespace tshyve
