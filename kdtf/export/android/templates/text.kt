package {{ package }}

import android.app.Activity
import android.os.Bundle
import android.widget.Button
import android.widget.EditText
import android.widget.LinearLayout
import android.widget.TextView
import com.google.mediapipe.tasks.text.textclassifier.TextClassifier
import kotlin.concurrent.thread

private const val MODEL = "{{ asset }}"

/** Classifies what is typed; vocabulary and labels are in the file. */
class MainActivity : Activity() {
    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        val field = EditText(this)
        val button = Button(this).apply { text = "Classify" }
        val view = TextView(this)
        val column = LinearLayout(this).apply {
            orientation = LinearLayout.VERTICAL
            addView(field)
            addView(button)
            addView(view)
        }
        setContentView(column)
        button.setOnClickListener {
            val typed = field.text.toString()
            thread {
                val text = classify(typed)
                runOnUiThread { view.text = text }
            }
        }
    }

    private fun classify(typed: String): String {
        TextClassifier.createFromFile(this, MODEL).use { classifier ->
            val result = classifier.classify(typed)
            val scores = result.classificationResult().classifications()[0]
            return scores.categories().joinToString("\n") {
                "${it.index()} ${it.categoryName()}: ${it.score()}"
            }
        }
    }
}
