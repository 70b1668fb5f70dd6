// SPDX-License-Identifier: MIT
#pragma once

#include <diffeo/data/column_checks.hpp>
#include <diffeo/nn/context.hpp>
#include <diffeo/training/dataset.hpp>
#include <diffeo/training/objective.hpp>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace diffeo::inline DIFFEO_ISA {

namespace detail {

// Throws invalid_argument unless the model has the dimension of the data and takes a context of so many columns, 0 for
// none. Messages begin with `who`.
template <class Model>
void require_columns_of_model(const Model& model, Index dim, Index given, const char* who) {
  if constexpr (requires { model.dim(); })
    require(dim == model.dim(), who, ": data has ", dim, " columns, this flow has dimension ", model.dim());
  const Index wanted = diffeo::context_dim(model);
  require(given == 0 || wanted > 0, who, ": got a context, but this model takes none");
  require(given > 0 || wanted == 0, who, ": this model takes a context of ", wanted, " columns, got none");
  require(given == wanted, who, ": the context has ", given, " columns, this model takes one of ", wanted);
}

/// Returns -log p(x) or -log p(x | c) for each row of a piece of a minibatch, in training plus the penalties of layers.
template <class Model, Real S>
Var<S> negative_log_likelihood(const Model& model, const Var<S>& x, const Var<S>& context, const Minibatch& batch) {
  Penalties<S> penalties;
  Pass<S> pass = batch.pass(penalties);
  pass.context = context;
  const Var<S> log_prob = [&] {
    if constexpr (requires { model.log_prob(x, pass); })
      return model.log_prob(x, pass);
    else
      return model.log_prob(x);
  }();
  return penalties.sum() ? penalties.sum() - log_prob : -log_prob;
}

}  // namespace detail

/// The negative log-likelihood, -log p(x) in nats for each row x of the data, or -log p(x | c) where each row has a
/// context c; in training, plus the penalties that the flow's layers ask for (see Pass).
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

  /// Takes a context with each row: N x C. Both must outlive the objective. Throws invalid_argument as above, and
  /// unless there are as many contexts as rows, finite.
  MaximumLikelihood(const Array<S>& data, const Array<S>& context) : MaximumLikelihood(data) { set_context(context); }
  /// Takes over the data, the context or both, as above.
  MaximumLikelihood(const Array<S>& data, Array<S>&& context) : MaximumLikelihood(data) { own(std::move(context)); }
  MaximumLikelihood(Array<S>&& data, const Array<S>& context) : MaximumLikelihood(std::move(data)) {
    set_context(context);
  }
  MaximumLikelihood(Array<S>&& data, Array<S>&& context) : MaximumLikelihood(std::move(data)) {
    own(std::move(context));
  }

  /// Data with contexts and weights as far as there are any, which must outlive the objective. Throws as
  /// Dataset::check() does, with messages that begin with `who`.
  explicit MaximumLikelihood(const Dataset<S>& data, const std::string& who = "fit") : data_(&data.x) {
    data.check(who);
    if (data.has_context()) context_ = &data.context;
    if (data.has_weights()) weights_ = &data.weights;
    names_ = data.names;
  }
  /// Takes over the data, as above.
  explicit MaximumLikelihood(Dataset<S>&& data, const std::string& who = "fit")
      : MaximumLikelihood(std::make_shared<const Dataset<S>>(std::move(data)), who) {}

  Index size() const { return data_->rows(); }
  const Array<S>& data() const { return *data_; }
  /// Returns the weight of a row of the data, 1 where there are no weights.
  double row_weight(Index row) const { return weights_ ? static_cast<double>((*weights_)(row, 0)) : 1; }

  /// Throws invalid_argument where the model has another dimension than the data or takes another context, with a
  /// message that begins with `who`.
  template <class Model>
  void check(const Model& model, const char* who = "fit") const {
    detail::require_columns_of_model(model, data_->cols(), context_ ? context_->cols() : 0, who);
  }

  /// Returns warnings about repeated values and rows (see repetition_warnings()). Throws invalid_argument for columns
  /// of data or context that are rounded to a lattice and for constant columns of data (see
  /// require_resolved_columns()). Rows of weight 0 do not count.
  std::vector<std::string> inspect() const {
    if (!weights_ || (*weights_ > 0).all()) return inspect(*data_, context_);
    std::vector<Index> rows;
    for (Index row = 0; row < size(); ++row)
      if ((*weights_)(row, 0) > 0) rows.push_back(row);
    const auto chosen_rows = [&rows](const Array<S>& all) {
      Array<S> some(static_cast<Index>(rows.size()), all.cols());
      for (std::size_t i = 0; i < rows.size(); ++i) some.row(static_cast<Index>(i)) = all.row(rows[i]);
      return some;
    };
    const Array<S> data = chosen_rows(*data_);
    if (!context_) return inspect(data, nullptr);
    const Array<S> context = chosen_rows(*context_);
    return inspect(data, &context);
  }

  template <class Model>
    requires requires(const Model& model, const Var<S>& x) { model.log_prob(x); }
  Var<S> loss(const Model& model, Tape<S>& tape, const Minibatch& batch) const {
    const Var<S> x = chosen(tape, *data_, batch.rows);
    return detail::negative_log_likelihood(model, x, context_ ? chosen(tape, *context_, batch.rows) : Var<S>(), batch);
  }

 private:
  explicit MaximumLikelihood(std::shared_ptr<const Array<S>> data) : MaximumLikelihood(*data) {
    owned_ = std::move(data);
  }
  MaximumLikelihood(std::shared_ptr<const Dataset<S>> data, const std::string& who) : MaximumLikelihood(*data, who) {
    owned_ = std::move(data);
  }

  std::vector<std::string> inspect(const Array<S>& data, const Array<S>* context) const {
    require(data.rows() > 1, "fit: data has 1 row of a weight above 0, expected at least 2");
    require_resolved_columns("fit: data", data, names_);
    if (context) require_resolved_columns("fit: the context", *context, {}, ConstantColumns::allowed);
    return repetition_warnings(data, names_);
  }

  void set_context(const Array<S>& context) {
    require(context.rows() == data_->rows(), "fit: the context has ", context.rows(), " rows, the data ",
            data_->rows());
    require_finite(context, "fit: the context");
    context_ = &context;
  }
  void own(Array<S>&& context) {
    auto owned = std::make_shared<const Array<S>>(std::move(context));
    set_context(*owned);
    owned_context_ = std::move(owned);
  }

  static Var<S> chosen(Tape<S>& tape, const Array<S>& from, std::span<const Index> rows) {
    const Var<S> x = tape.make(static_cast<Index>(rows.size()), from.cols(), false);
    const View<S> to = tape.mutable_value(x);
    for (Index j = 0; j < to.cols; ++j) {
      const S* column = from.data() + j * from.rows();
      for (std::size_t i = 0; i < rows.size(); ++i) to.col(j)[i] = column[rows[i]];
    }
    return x;
  }

  const Array<S>* data_;
  const Array<S>*context_ = nullptr, *weights_ = nullptr;
  std::span<const std::string> names_;  // of the columns of the data; may be empty
  std::shared_ptr<const void> owned_, owned_context_;
};

}  // namespace diffeo::inline DIFFEO_ISA
