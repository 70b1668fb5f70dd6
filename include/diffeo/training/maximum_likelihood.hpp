// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/training/objective.hpp>
#include <memory>
#include <utility>

namespace diffeo::inline DIFFEO_ISA {

/// The negative log-likelihood, -log p(x) in nats for each row x of the data; in training, plus the penalties that the
/// flow's layers ask for (see Pass).
template <Real S>
class MaximumLikelihood {
 public:
  /// The data must outlive the objective. Throws invalid_argument for data without rows or with NaN or infinity.
  explicit MaximumLikelihood(const Array<S>& data) : data_(&data) {
    require(data.rows() > 0, "fit: data is empty, expected at least one row");
    require_finite(data, "fit: data");
  }
  /// Takes over the data, which the objective and its copies own. Throws as above.
  explicit MaximumLikelihood(Array<S>&& data) : MaximumLikelihood(std::make_shared<const Array<S>>(std::move(data))) {}

  Index size() const { return data_->rows(); }
  const Array<S>& data() const { return *data_; }

  template <class Model>
    requires requires(const Model& model, const Var<S>& x) { model.log_prob(x); }
  Var<S> loss(const Model& model, Tape<S>& tape, const Minibatch& batch) const {
    const Var<S> x = tape.make(static_cast<Index>(batch.rows.size()), data_->cols(), false);
    const View<S> to = tape.mutable_value(x);
    for (Index j = 0; j < to.cols; ++j) {
      const S* from = data_->data() + j * data_->rows();
      for (std::size_t i = 0; i < batch.rows.size(); ++i) to.col(j)[i] = from[batch.rows[i]];
    }
    Penalties<S> penalties;
    const Pass<S> pass = batch.pass(penalties);
    const Var<S> log_prob = [&] {
      if constexpr (requires { model.log_prob(x, pass); })
        return model.log_prob(x, pass);
      else
        return model.log_prob(x);
    }();
    return penalties.sum() ? penalties.sum() - log_prob : -log_prob;
  }

 private:
  explicit MaximumLikelihood(std::shared_ptr<const Array<S>> data) : MaximumLikelihood(*data) {
    owned_ = std::move(data);
  }

  const Array<S>* data_;
  std::shared_ptr<const Array<S>> owned_;
};

}  // namespace diffeo::inline DIFFEO_ISA
