// SPDX-License-Identifier: MIT
#include <diffeo/layers/flow.hpp>

#include "../catch.hpp"

using diffeo::Transformed;
using diffeo::Var;

namespace {

// Has all a flow needs, and can lose any of it.
template <class T>
struct Identity {
  using Scalar = diffeo::scalar_t<T>;
  diffeo::Index dim() const { return 0; }
  template <class Self>
  static auto fields(Self&) {
    return std::tuple<>();
  }
  template <class U>
  Identity<U> rebind() const {
    return {};
  }
  template <diffeo::Traced X>
  Transformed<X> forward(const X& z) const {
    return {z, z};
  }
  template <diffeo::Traced X>
  Transformed<X> inverse(const X& x) const {
    return {x, x};
  }
};
struct NoScalar {};
struct NoInverse : Identity<float> {
  void inverse() const {}
};
struct NoForward : Identity<float> {
  void forward() const {}
};
struct NoDim : Identity<float> {
  void dim() const {}
};
struct NoFields : Identity<float> {
  static void fields() {}
};
struct NoRebind : Identity<float> {
  void rebind() const {}
};
struct ValueAlone : Identity<float> {
  Var<float> inverse(const Var<float>& x) const { return x; }
};

static_assert(diffeo::Flow<Identity<float>>);
static_assert(diffeo::Flow<Identity<double>>);
static_assert(diffeo::FlowOf<Identity<float>, double>, "a layer without parameters serves any scalar");
static_assert(!diffeo::Flow<NoScalar>);
static_assert(!diffeo::Flow<NoInverse>);
static_assert(!diffeo::Flow<NoForward>);
static_assert(!diffeo::Flow<NoDim>);
static_assert(!diffeo::Flow<NoFields>);
static_assert(!diffeo::Flow<NoRebind>);
static_assert(!diffeo::Flow<ValueAlone>, "a direction yields value and log_det");
static_assert(!diffeo::Flow<int>);
static_assert(!diffeo::FlowOf<Identity<float>, int>);

static_assert(diffeo::HasForward<Identity<float>, Var<float>>);
static_assert(diffeo::HasForward<Identity<float>, diffeo::Dual<Var<float>>>);
static_assert(!diffeo::HasInverse<NoInverse, Var<float>>);
static_assert(diffeo::HasForward<NoInverse, Var<float>>);

}  // namespace

TEST_CASE("a flow without parameters has none to read", "[layers]") { CHECK(Identity<float>{}.dim() == 0); }
