#pragma once

// The newest macOS that these declarations know: they play the part of its SDK.
#define __MAC_OS_X_VERSION_MAX_ALLOWED 270000

#define TSHYVE_SINCE(version) __attribute__((availability(macos, introduced = version)))
#define TSHYVE_NOT_AVAILABLE __attribute__((unavailable))
#define TSHYVE_DESIGNATED __attribute__((objc_designated_initializer))
